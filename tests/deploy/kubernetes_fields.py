"""The fields of published resources that the files in deploy/ use, as JSON schemas: an unknown field is an error.

AscendJob, mindxdl.gitee.com/v1: MindCluster's docs/zh/scheduling/api/ascend_job.md, and what its ascend-operator
refuses (pkg/controllers/v1/ascendjob_validate.go). TrainJob and ClusterTrainingRuntime, trainer.kubeflow.org/v1alpha1:
the models of the package kubeflow-trainer-api 2.3.0, whose Pod template is AscendJob's, too. All read in November 2026.
A field that a file begins to use is looked up there and written down here.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
INT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}  # labels: a bare 3 or on is no string
QUANTITIES: Schema = {"type": "object", "additionalProperties": {"type": ["integer", "string"]}}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def mapping(*required: str, **fields: Schema) -> Schema:
    """Return the schema of an object with these fields and no other."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def array(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


METADATA = mapping(name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
RESOURCES = mapping(limits=QUANTITIES, requests=QUANTITIES)
CONTAINER = mapping(
    *("name", "image"),
    name=TEXT,
    image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    workingDir=TEXT,
    command=array(TEXT),
    args=array(TEXT),
    env=array(mapping("name", name=TEXT, value={"type": "string"})),
    ports=array(mapping("containerPort", name={**TEXT, "maxLength": 15}, containerPort=PORT)),
    resources=RESOURCES,
    volumeMounts=array(mapping("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
)
VOLUME = mapping(
    "name",
    name=TEXT,
    persistentVolumeClaim=mapping("claimName", claimName=TEXT, readOnly=FLAG),
    hostPath=mapping("path", path=TEXT),
    emptyDir=mapping(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
)
EXPRESSION = mapping(
    "key", "operator", key=TEXT, operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]}, values=array(TEXT)
)
ANTI_AFFINITY = mapping(
    requiredDuringSchedulingIgnoredDuringExecution=array(
        mapping("topologyKey", topologyKey=TEXT, labelSelector=mapping(matchExpressions=array(EXPRESSION)))
    )
)
POD_TEMPLATE = mapping(
    metadata=METADATA,
    spec=mapping(
        "containers",
        containers=array(CONTAINER),
        volumes=array(VOLUME),
        nodeSelector=TEXTS,
        affinity=mapping(podAntiAffinity=ANTI_AFFINITY),
        terminationGracePeriodSeconds=INT,
    ),
)


def replicas(count: Schema) -> Schema:
    return mapping(
        "template",
        replicas=count,
        restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
        template=POD_TEMPLATE,
    )


ASCEND_JOB = mapping(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "mindxdl.gitee.com/v1"},
    kind={"const": "AscendJob"},
    metadata=METADATA,
    spec=mapping(
        "replicaSpecs",
        schedulerName={"const": "volcano"},
        runPolicy=mapping(
            backoffLimit=INT,
            schedulingPolicy=mapping(minAvailable=POSITIVE, queue=TEXT, priorityClass=TEXT, minResources=QUANTITIES),
        ),
        successPolicy={"enum": ["", "AllWorkers"]},
        replicaSpecs=mapping("Master", Master=replicas({"const": 1}), Worker=replicas(POSITIVE)),
    ),
)

RUNTIME = mapping(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "ClusterTrainingRuntime"},
    metadata=METADATA,
    spec=mapping(
        mlPolicy=mapping(numNodes=POSITIVE, torch=mapping(numProcPerNode={"type": ["integer", "string"]})),
        template=mapping(
            metadata=METADATA,
            spec=mapping(
                "replicatedJobs",
                failurePolicy=mapping(maxRestarts=INT),
                replicatedJobs=array(
                    mapping(
                        *("name", "template"),
                        name=TEXT,
                        template=mapping(
                            metadata=METADATA, spec=mapping("template", backoffLimit=INT, template=POD_TEMPLATE)
                        ),
                    )
                ),
            ),
        ),
    ),
)
TRAIN_JOB = mapping(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=METADATA,
    spec=mapping(
        "runtimeRef",
        runtimeRef=mapping("name", name=TEXT, kind=TEXT, apiGroup=TEXT),
        trainer=mapping(
            image=TEXT,
            command=array(TEXT),
            args=array(TEXT),
            env=array(mapping("name", name=TEXT, value={"type": "string"})),
            numNodes=POSITIVE,
            numProcPerNode=POSITIVE,
            resourcesPerNode=RESOURCES,
        ),
        suspend=FLAG,
    ),
)
