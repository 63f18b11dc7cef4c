"""The times that are measured, by name. Each has a histogram."""

LATENCY = "latency"
SERVICE = "service"
JOB = "job"
FIRST_CHUNK = "first_chunk"
CHUNK_GAP = "chunk_gap"
FIRST_TOKEN = "first_token"
TOKEN_GAP = "token_gap"
DELAY = "delay"
EXECUTION = "execution"
LATE = "late"
LAG = "lag"

TIMINGS = {
    LATENCY: "from the intended time of sending to the complete answer",
    SERVICE: "the same from when it was really sent",
    JOB: "from the intended time of sending /run to the status that showed the job's end",
    FIRST_CHUNK: "from the intended time of sending /run to the first chunk",
    CHUNK_GAP: "between chunks; 0 for those that came in one answer",
    FIRST_TOKEN: "from the intended time of sending to the first piece of text",
    TOKEN_GAP: "between pieces of text",
    DELAY: "the job's time in the queue, as the server says (delayTime)",
    EXECUTION: "the job's time at the worker, as the server says (executionTime)",
    "run": "latency of the /run in a mixture",
    "runsync": "latency of the /runsync in a mixture",
    "stream": "latency of the streams in a mixture",
    "status": "latency of the /status in a mixture",
    "cancel": "latency of a /run with the /cancel behind it, in a mixture",
    LATE: "this tool: so long after the intended time it came to an operation",
    LAG: "this tool: its event loop was so late",
}
