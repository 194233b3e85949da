// The readers of JSON and of ONNX files on texts that are right, wrong and damaged.
#include "spikedeploy/json.h"

#include <string>

#include "expect.h"
#include "spikedeploy/artifact.h"
#include "spikedeploy/onnx_file.h"

namespace {

using spikedeploy::Status;
using spikedeploy::detail::Json;
using spikedeploy::detail::JsonReader;
using spikedeploy::detail::OnnxFile;
using spikedeploy::detail::OnnxReader;

bool Good(const std::string& text, Json* value) { return JsonReader(text).Read(value).ok(); }

void TestRight() {
  Json value;
  EXPECT(Good(R"( {"a": [1, -2.5e3, "x\u00e9\ud83d\ude00\n"], "b": {"c": true, "d": null}} )",
              &value));
  const Json* list = value.Find("a");
  EXPECT(list != nullptr && list->items.size() == 3);
  if (list == nullptr || list->items.size() != 3) return;
  EXPECT(list->items[0].is_integer && list->items[0].integer == 1);
  EXPECT(!list->items[1].is_integer && list->items[1].number == -2500.0);
  EXPECT(list->items[2].text == "x\xc3\xa9\xf0\x9f\x98\x80\n");
  const Json* inner = value.Find("b");
  EXPECT(inner != nullptr && inner->Find("c") != nullptr && inner->Find("c")->boolean);
  EXPECT(value.Find("z") == nullptr);
}

void TestWrong() {
  for (const char* text : {"",
                           "{",
                           "[1,]",
                           "{\"a\":1,}",
                           "{\"a\" 1}",
                           "{a:1}",
                           "01",
                           "1.",
                           "1e",
                           "-",
                           "nul",
                           "NaN",
                           "Infinity",
                           "1e999",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\n\"",
                           "\"a",
                           "1 2",
                           "{\"a\":1,\"a\":2}",
                           "[1}",
                           "tru"}) {
    Json value;
    EXPECT(!Good(text, &value));
  }
  Json value;
  EXPECT(!Good(std::string(100000, '['), &value));
  EXPECT(Good("99999999999999999999", &value) && !value.is_integer);
}

// Every prefix and every changed byte of a small model: an error or none, and no byte outside.
void TestDamagedOnnx() {
  const std::string model(
      "\x08\x0a\x3a\x1e\x0a\x0d\x0a\x01\x61\x12\x01\x62\x22\x05Relu6\x5a\x0d\x0a\x01\x61\x12\x08"
      "\x0a\x06\x08\x01\x12\x02\x0a\x00\x72\x06\x0a\x01k\x12\x01v",
      42);
  OnnxFile whole;
  EXPECT(OnnxReader(&whole).Read(model).ok());
  EXPECT(whole.nodes.size() == 1 && whole.nodes[0].op_type == "Relu6");
  EXPECT(whole.inputs.size() == 1 && whole.inputs[0].shape.size() == 1);
  EXPECT(whole.metadata.size() == 1 && whole.metadata[0].second == "v");
  for (std::size_t size = 0; size < model.size(); ++size) {
    OnnxFile file;
    const std::string part(model, 0, size);
    (void)OnnxReader(&file).Read(part).ok();
    for (int byte = 0; byte < 256; ++byte) {
      OnnxFile changed;
      std::string text = model;
      text[size] = static_cast<char>(byte);
      (void)OnnxReader(&changed).Read(text).ok();
    }
  }
  OnnxFile empty;
  EXPECT(!OnnxReader(&empty).Read("").ok());
}

}  // namespace

int main() {
  TestRight();
  TestWrong();
  TestDamagedOnnx();
  return Failures() == 0 ? 0 : 1;
}
