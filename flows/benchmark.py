from flows.stage import run_stage
from tasks.benchmark import benchmark

if __name__ == "__main__":
    run_stage("benchmark", benchmark)
