from flows.stage import run_stage
from tasks.train import train

if __name__ == "__main__":
    run_stage("train", train)
