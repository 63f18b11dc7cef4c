"""The handlers of these tests, for RunPod's own SDK and for nothing else: what a job asks for is in its input.

HANDLER says which of them serves, CONCURRENCY how many jobs at once (else the SDK's default), AGGREGATE and REFRESH set
what their names say, and RECORD is the file into which they write what happens to them.
"""

import asyncio
import json
import os
import time

import runpod

WORKER = os.environ["RUNPOD_POD_ID"]


def record(job, event):
    """One line, written in one piece: several workers may share the file."""
    line = json.dumps({"job": job["id"], "attempt": job["attempt"], "worker": WORKER, "event": event})
    with open(os.environ["RECORD"], "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


async def until(path):
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.02)


def plain(job):
    """Returns the job's input, or does what it says."""
    given = job["input"]
    action = given.get("do") if isinstance(given, dict) else None
    if action is None:
        return given
    if action == "wait":
        return wait(job)
    if action == "return":
        return given["value"]
    if action == "job":
        return job
    if action == "process":
        return os.getpid()
    if action == "nan":
        return {"nan": float("nan"), "others": [float("inf"), -float("inf"), 1.5, "ż", {"deep": float("nan")}]}
    if action == "progress":
        return progress(job)
    if action == "block":
        return block(job)
    if action == "exit":
        record(job, "begins")
        os._exit(1)
    raise ValueError(given["text"])


async def wait(job):
    """Until the test makes the file that the job names."""
    record(job, "begins")
    try:
        await until(job["input"]["file"])
    except asyncio.CancelledError:
        record(job, "cancelled")
        raise
    record(job, "ends")
    return "ended"


def block(job):
    """The same, and nothing else goes on meanwhile."""
    record(job, "begins")
    while not os.path.exists(job["input"]["file"]):
        time.sleep(0.02)
    record(job, "ends")
    return "ended"


async def progress(job):
    for value in job["input"]["values"]:
        runpod.serverless.progress_update(job, value)
        await until(f"{job['input']['file']}-{value['step']}")
    return "done"


def generator(job):
    """Yields the values of the input, or does what they say."""
    for value in job["input"]:
        action = value.get("do") if isinstance(value, dict) else None
        if action == "raise":
            raise ValueError(value["text"])
        if action == "repeat":
            yield value["value"] * value["times"]
        else:
            yield value


async def async_generator(job):
    """Yields each value as soon as the test makes the file for it."""
    try:
        for number, value in enumerate(job["input"]["values"]):
            await until(f"{job['input']['file']}-{number}")
            yield value
    except asyncio.CancelledError:
        record(job, "cancelled")
        raise


def main():
    config = {"handler": globals()[os.environ["HANDLER"]]}
    if concurrency := os.environ.get("CONCURRENCY"):
        config["concurrency_modifier"] = lambda current: int(concurrency)
    if os.environ.get("AGGREGATE"):
        config["return_aggregate_stream"] = True
    if os.environ.get("REFRESH"):
        config["refresh_worker"] = True
    if os.environ.get("UNFIT"):

        @runpod.serverless.register_fitness_check
        def model_files():
            raise RuntimeError("the model is not there")

    runpod.serverless.start(config)


if __name__ == "__main__":
    main()
