from flows.stage import run_stage
from tasks.data import data

if __name__ == "__main__":
    run_stage("data", data)
