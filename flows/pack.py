from flows.stage import run_stage
from tasks.pack import pack

if __name__ == "__main__":
    run_stage("pack", pack)
