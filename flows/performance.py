from flows.stage import run_stage
from tasks.performance import performance

if __name__ == "__main__":
    run_stage("performance", performance)
