from flows.stage import run_stage
from tasks.annotations import record_annotations

if __name__ == "__main__":
    run_stage("annotations", record_annotations, tracked=False)  # a second of a flow's own for a tenth of work
