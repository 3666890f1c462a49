from flows.stage import run_stage
from tasks.weights import weights

if __name__ == "__main__":
    run_stage("weights", weights)
