// The headers without exceptions: what fails returns a Status.
#define SPIKEDEPLOY_NO_EXCEPTIONS
#include <cstdio>

#include "expect.h"
#include "spikedeploy/spikedeploy.h"

int main() {
  spikedeploy::Session session;
  const spikedeploy::Status status = session.Open("/nowhere/model.onnx");
  EXPECT(status.code() == spikedeploy::Code::kNotFound);
  EXPECT(status.message().find("/nowhere/model.onnx") == 0);
  EXPECT(!session.is_open());
  spikedeploy::Stream stream;
  EXPECT(stream.Open(session).code() == spikedeploy::Code::kInvalidArgument);
  spikedeploy::FlowView flow;
  EXPECT(stream.Run({}, &flow).code() == spikedeploy::Code::kInvalidArgument);
  EXPECT(stream.RunInput(&flow).code() == spikedeploy::Code::kInvalidArgument);
  return Failures() == 0 ? 0 : 1;
}
