"""The files in `infra/` pass the schemas and linters of the tools that read them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import ray
import yaml

from pipeline.config.config import Config
from pipeline.config.load import parse_config

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
CRD = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml"
SCRIPTS = Path(sysconfig.get_path("scripts"))
KUSTOMIZED = ("base", "overlays/gke-spot", "overlays/eks-spot")
KUBERNETES = "1.34"


def tool(name: str, *arguments: str | Path) -> str:
    """Runs a checker that is installed next to this Python; returns its output."""
    done = subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def objects(folder: str) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(tool("kubectl", "kustomize", INFRA / "kuberay" / folder)))


def rayjob(folder: str) -> dict[str, Any]:
    (found,) = [item for item in objects(folder) if item["kind"] == "RayJob"]
    return found


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, which now forbids unnamed fields, as the API server warns about them."""
    schema = copy.deepcopy(schema)
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            if node.pop("x-kubernetes-int-or-string", False):
                node["type"] = ["integer", "string"]
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return schema


@pytest.fixture(scope="module")
def kuberay() -> Any:
    """A validator of RayJobs; its long schema is parsed and checked once."""
    if not CRD.exists():
        pytest.skip(f"{CRD}: no such file (KubeRay's definition of a RayJob)")
    definition = yaml.load(CRD.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [item for item in definition["spec"]["versions"] if item["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("folder", KUSTOMIZED)
def test_the_rayjob_passes_kuberays_schema(folder: str, kuberay: Any) -> None:
    """KubeRay's definition has every field, with this type."""
    kuberay.validate(rayjob(folder))


def test_the_schema_refuses_a_misspelled_field(kuberay: Any) -> None:
    """KubeRay would ignore such a field; the test's schema does not."""
    job = rayjob("base")
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        kuberay.validate(job)


@pytest.mark.parametrize("folder", KUSTOMIZED)
def test_other_objects_and_pods_are_valid_kubernetes(folder: str) -> None:
    """Service account, config map and the RayJob's pods pass Kubernetes's own schemas."""
    job = rayjob(folder)
    cluster = job["spec"]["rayClusterSpec"]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        for template in (
            cluster["headGroupSpec"]["template"],
            *(group["template"] for group in cluster["workerGroupSpecs"]),
            job["spec"]["submitterPodTemplate"],
        )
    ]
    others = [item for item in objects(folder) if item["kind"] != "RayJob"]
    assert {item["kind"] for item in others} == {"ServiceAccount", "ConfigMap", "NetworkPolicy"}
    for item in [*others, *pods]:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", KUSTOMIZED)
def test_the_rayjob_has_no_workers_on_the_head_and_no_keys(folder: str) -> None:
    """Only the driver runs on the head; the job restarts by itself; there are no credentials."""
    job = rayjob(folder)
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] > 0
    assert "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
    assert cluster["rayVersion"] == ray.__version__
    for group in [head, *workers]:
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == "overpaint"
        shared = [item for item in pod["volumes"] if item["name"] == "shm"]
        assert shared[0]["emptyDir"]["medium"] == "Memory"
    assert "secret" not in json.dumps(job).lower()


@pytest.mark.parametrize("folder", KUSTOMIZED)
def test_the_cluster_asks_for_a_token_and_lets_few_in(folder: str) -> None:
    """The policy selects every pod of the run, and no rule of it is open to all."""
    job = rayjob(folder)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (policy,) = [item for item in objects(folder) if item["kind"] == "NetworkPolicy"]
    chosen = policy["spec"]["podSelector"]["matchLabels"].items()
    templates = [cluster["headGroupSpec"]["template"], job["spec"]["submitterPodTemplate"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    for template in templates:
        assert chosen <= template["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    for rule in policy["spec"]["ingress"]:
        for source in rule["from"]:
            assert all(selector["matchLabels"] for selector in source.values())
    (dashboard,) = [
        rule
        for rule in policy["spec"]["ingress"]
        if {"port": 8265, "protocol": "TCP"} in rule.get("ports", [])
    ]
    assert "kuberay-operator" in json.dumps(dashboard)
    submitter = job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert submitter["image"] == head["image"]


def test_overlays_put_workers_on_spot_nodes() -> None:
    """Each overlay selects the cloud's spot nodes, for workers only."""
    for folder, mark in (("gke-spot", "gke-spot"), ("eks-spot", "capacity-type")):
        cluster = rayjob(f"overlays/{folder}")["spec"]["rayClusterSpec"]
        worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"]
        assert any(mark in key for key in worker)
        head = cluster["headGroupSpec"]["template"]["spec"]
        assert head.get("nodeSelector", {}) != worker


def test_the_config_map_holds_a_valid_config() -> None:
    """`overpaint edit` accepts the file."""
    config = parse_config(yaml.safe_load((INFRA / "kuberay/base/config.yaml").read_text()))
    assert isinstance(config, Config)
    assert config.model.device == "cuda"


@pytest.mark.parametrize("name", ["aws-spot", "gcp-spot"])
def test_the_cluster_file_passes_rays_schema(name: str) -> None:
    """Workers are on spot nodes; the head is not, and runs no workers."""
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    cluster = yaml.safe_load((INFRA / f"ray-cluster/{name}.yaml").read_text())
    jsonschema.validate(cluster, schema)
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert "spot" in json.dumps(types["spot_gpu"]["node_config"]).lower()
    assert "spot" not in json.dumps(types["head"]["node_config"]).lower()


def test_the_dockerfile_passes_hadolint() -> None:
    """The image is pinned and does not run as root."""
    tool("hadolint", INFRA / "docker" / "Dockerfile")
    text = (INFRA / "docker" / "Dockerfile").read_text()
    assert "USER 1000" in text
    assert "--require-hashes" in text
    assert "FROM ${CUDA_IMAGE}@${CUDA_DIGEST}" in text
    assert not re.search(r"^ARG CUDA_DIGEST=", text, re.M), "the digest is given with each build"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copied in re.findall(r"^COPY (\S+) ", text, re.M):
        assert copied == "." or f"!{copied}" in ignored


def test_the_slurm_script_passes_shellcheck() -> None:
    """shellcheck finds no mistake in the batch script."""
    tool("shellcheck", "--severity=warning", INFRA / "slurm" / "overpaint.sbatch")
