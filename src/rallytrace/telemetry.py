"""Switches off what other packages would report about this machine. It is imported before any of them."""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it when it is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a Ray node that is started from here reads it
# OpenVINO reports its own import to Google Analytics through this package, and does without it where it is absent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
