"""What the pump asks of Ray beside tasks: to be connected, what there is, why a task failed.

Runs in:    the pump. Ray is loaded when it connects.
Owns:       nothing.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from collector import settings
from collector.integrations.ray import agent, own
from collector.integrations.ray.orders import End, PumpArguments

_WHY_CHARACTERS: Final = 600
"""What is said of an end is read at once, from a pipe."""
_NOT_IN_TIME: Final = "timed out during startup"


def connect(told: PumpArguments) -> float:
    """Join a cluster, or start a Ray; return how many CPUs it has."""
    starts = told.address is None
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if starts:
        own.set_environment(told.token, told.temp_directory)
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "runtime_env" in told.options:
        options["runtime_env"] = dict(told.options["runtime_env"])
    if starts:
        options |= own.options(told.options, told.workers, told.store_bytes, told.temp_directory)
    else:
        options["address"] = told.address
    began_s = time.monotonic()
    try:
        ray.init(**options)
    except Exception as error:  # Ray has no kind of its own for this
        late = starts and _NOT_IN_TIME in str(error)
        if not late or time.monotonic() >= began_s + settings.RAY_START_S / 2:
            raise
        # On a busy machine Ray gives up after 30 s, which cannot be set. Its files are at hand now.
        own.end_remains(told.temp_directory)
        ray.init(**options)
    resources: Any = ray
    return float(resources.cluster_resources().get("CPU", 0))


def task_of(options: Mapping[str, Any]) -> Any:
    """Return the task that runs a job.

    Raises:
        ValueError: Ray refuses what it is to ask for.
    """
    ray: Any = sys.modules["ray"]
    asked = {name: value for name, value in options.items() if name != "runtime_env"}
    try:
        return ray.remote(agent.serve).options(
            **{"num_cpus": 1} | asked,
            max_retries=0,
            num_returns="streaming",
            _generator_backpressure_num_objects=settings.RAY_WINDOW,
        )
    except Exception as error:  # of any kind: it goes to the parent, which tells its user
        raise ValueError(f"Ray refuses the ray_options {asked!r}: {error}") from error


def missing(options: Mapping[str, Any]) -> str:
    """Say that no node has what a job asks for, if none has: its jobs would wait for one."""
    ray: Any = sys.modules["ray"]
    asked = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
    asked |= {"memory": options.get("memory", 0)} | dict(options.get("resources", {}))
    if "accelerator_type" in options:
        asked |= {f"accelerator_type:{options['accelerator_type']}": 0.001}  # as Ray asks for one
    labels = dict(options.get("label_selector", {}))
    for node in ray.nodes():
        if (
            node["Alive"]
            and all(node["Resources"].get(name, 0) >= amount for name, amount in asked.items())
            and all(is_selected(node["Labels"].get(name), text) for name, text in labels.items())
        ):
            return ""
    told = {name: amount for name, amount in asked.items() if amount} | labels
    wanted = ", ".join(f"{name}: {amount}" for name, amount in told.items())
    return f"no node of the Ray cluster has what each job asks for ({wanted}): jobs wait for one"


def is_selected(label: str | None, selector: str) -> bool:
    """Tell whether a node with that label, or none, is meant: "a", "!a", "in(a,b)", "!in(a,b)"."""
    wanted = selector.removeprefix("!")
    names = wanted[len("in(") : -1].split(",") if wanted.startswith("in(") else [wanted]
    return (label in names) != selector.startswith("!")


def explained(error: Exception) -> End:
    """Say what has become of a worker on the cluster, after its name."""
    import ray.exceptions as of_ray

    text = _said(error)
    cause = getattr(error, "cause", None)
    known: Mapping[type[Exception], str] = {
        of_ray.OutOfMemoryError: "was ended by Ray, since its node was out of memory",
        of_ray.NodeDiedError: "is gone with its node",
        of_ray.WorkerCrashedError: "is gone: its process on the cluster died",
        of_ray.TaskCancelledError: "was cancelled",
        of_ray.RuntimeEnvSetupError: "could not be started in its runtime_env",
        of_ray.TaskUnschedulableError: "cannot run anywhere on the cluster",
    }
    starved = isinstance(error, of_ray.OutOfMemoryError)
    for kind, words in known.items():
        if isinstance(error, kind):
            return End(None, starved, f"{words} ({type(error).__name__}: {text})")
    if cause is not None:
        error, text = cause, _said(cause)
    return End(None, False, f"could not run it on the cluster: {type(error).__name__}: {text}")


def _said(error: Exception) -> str:
    """Return the first line of what an error of Ray's says and the last one, where the cause is."""
    lines = str(error).strip().splitlines() or [""]
    if len(lines) == 1:
        return lines[0][:_WHY_CHARACTERS]
    most = _WHY_CHARACTERS // 2
    return f"{lines[0][:most]} ... {lines[-1].strip()[:most]}"
