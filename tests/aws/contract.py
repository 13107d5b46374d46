"""SageMaker's side of the container contracts: the /opt/ml tree, and the entry point as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENTRYPOINT = Path(__file__).parents[2] / "docker" / "entrypoint.sh"
WAIT_S = 240.0


@dataclass
class Host:
    """One instance: its tree, and what runs in it with no more environment than the service gives."""

    base: Path
    name: str = "algo-1"
    hosts: tuple[str, ...] = ("algo-1",)
    interface: str = "lo"
    environment: dict[str, str] = field(default_factory=dict)

    def config(self, name: str, value: Any) -> None:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    def training(self, channels: dict[str, Path], hyperparameters: dict[str, str]) -> Host:
        """The files that a training job finds."""
        for name in ("model", "output", "checkpoints", "input/data"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, folder in channels.items():
            shutil.copytree(folder, self.base / "input" / "data" / name)
        kind = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
        self.config("input/config/inputdataconfig.json", dict.fromkeys(channels, kind))
        self.config("input/config/hyperparameters.json", hyperparameters)
        self.config("input/config/resourceconfig.json", self._resources())
        return self

    def processing(self, inputs: dict[str, Path], distribution: str = "FullyReplicated") -> Host:
        """The files that a processing job finds."""
        listed = []
        for name, folder in inputs.items():
            shutil.copytree(folder, self.base / "processing" / "input" / name)
            s3 = {"LocalPath": f"/opt/ml/processing/input/{name}", "S3Uri": f"s3://bucket/{name}"}
            listed.append({"InputName": name, "S3Input": {**s3, "S3DataDistributionType": distribution}})
        out = {"LocalPath": "/opt/ml/processing/output/out", "S3Uri": "s3://bucket/out", "S3UploadMode": "EndOfJob"}
        outputs = {"Outputs": [{"OutputName": "out", "S3Output": out}]}
        self.config("config/processingjobconfig.json", {"ProcessingInputs": listed, "ProcessingOutputConfig": outputs})
        self.config("config/resourceconfig.json", {"current_host": self.name, "hosts": list(self.hosts)})
        (self.base / "processing" / "output" / "out").mkdir(parents=True)
        return self

    def _resources(self) -> dict[str, Any]:
        names = {"current_host": self.name, "hosts": list(self.hosts), "network_interface_name": self.interface}
        group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": list(self.hosts)}
        return {**names, "current_instance_type": "ml.m5.large", "instance_groups": [group]}

    def start(self, *words: str) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = {"PATH": path, "SAGEMAKER_BASE_DIR": str(self.base), "OMP_NUM_THREADS": "1", "HOME": "/tmp"}
        environment |= {"TRAINING_JOB_NAME": "a-job", "AWS_REGION": "us-east-1", **self.environment}
        if "TMPDIR" in os.environ:
            environment["TMPDIR"] = os.environ["TMPDIR"]
        command = ["sh", str(ENTRYPOINT), *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.start(*words)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    @property
    def failure(self) -> str | None:
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else None

    def logged(self) -> list[int]:
        """The steps in the run's log."""
        lines = (self.base / "checkpoints" / "metrics.jsonl").read_text().splitlines()
        return [line["step"] for line in map(json.loads, lines) if "heatmap" in line]


def read_until(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> str:
    """The lines that the process prints, up to the wanted one."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if wanted(line):
            return "".join(lines)
    assert process.stderr
    raise AssertionError("it ended before:\n" + "".join(lines) + process.stderr.read())
