from flows.stage import run_stage
from tasks.evaluate import detect, draw, score

if __name__ == "__main__":
    run_stage("evaluate", detect, score, draw)
