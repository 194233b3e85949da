// Everything of the C++ runtime; spikedeploy/events.h alone needs no ONNX Runtime.
#pragma once

#include "spikedeploy/artifact.h"
#include "spikedeploy/events.h"
#include "spikedeploy/session.h"
#include "spikedeploy/status.h"
