from flows.stage import run_stage
from tasks.ops import ops

if __name__ == "__main__":
    run_stage("ops", ops)
