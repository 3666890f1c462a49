"""The time of a training step on several devices, from the speeds of its parts: formulas of benchmarks/scaling.py."""

from __future__ import annotations

from dataclasses import dataclass

BACKWARD = 2 / 3  # share of a step's operations: as many for the inputs' gradients, and for the weights', as forward
BUCKET = 25 * 2**20  # bytes of gradients in one message, DistributedDataParallel's default
OTHER_MESSAGES = 2  # of a step: batch norm's running statistics, and which parameters had a gradient


@dataclass(frozen=True)
class Link:
    """Bytes per second of one device in each direction, and the seconds that one message takes at least."""

    bandwidth: float
    latency: float

    def all_reduce(self, size: float, members: int, messages: int) -> float:
        """Return the seconds of a ring: each member sends and receives 2 (n - 1) / n of the bytes."""
        if members == 1:
            return 0.0
        return 2 * (members - 1) / members * size / self.bandwidth + messages * self.latency


@dataclass(frozen=True)
class Network:
    """What a training computes and exchanges: FLOP of one image, forward and backward, and bytes of all gradients."""

    flops: float
    gradients: float

    @property
    def buckets(self) -> int:
        """The messages in which gradients travel."""
        return -(-int(self.gradients) // BUCKET)


@dataclass(frozen=True)
class System:
    """A host and the way to the next one.

    Attributes:
        image_s: Seconds of one device for an image, forward and backward.
        devices: Of a host.
        loaders: Cores of a host that load, besides one that each training process keeps busy.
        load_s: Seconds of one core for a training image.
        detect_s: Seconds of one core for a validation image.
        inside: Links of a host's devices.
        between: A device's link to other hosts.
        last: Bytes of the last bucket, which is full when the backward pass ends.
        overlap: Share of the backward pass during which gradients can travel; 0 where sending takes the cores that
            compute, as with gloo.
    """

    image_s: float
    devices: int
    loaders: float
    load_s: float
    detect_s: float
    inside: Link
    between: Link
    last: float
    overlap: float = 1.0

    def all_reduce(self, size: float, messages: int, hosts: int, devices: int) -> float:
        """Return the seconds of an all-reduce: inside each host, and of a device's part of the sum between hosts."""
        inside = self.inside.all_reduce(size, devices, messages)
        return inside + self.between.all_reduce(size / devices, hosts, messages)


@dataclass(frozen=True)
class Step:
    """What the model says of a step, in seconds; images are those of all devices."""

    images: int
    compute: float
    all_reduce: float
    exposed: float
    loader: float

    @property
    def seconds(self) -> float:
        """The time of the step."""
        return max(self.compute + self.exposed, self.loader)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def bound(self) -> str:
        """What takes most of the step."""
        if self.loader > self.compute + self.exposed:
            return "loader"
        return "gradients" if self.exposed > self.compute else "compute"


def exposed_seconds(system: System, network: Network, compute: float, hosts: int, devices: int) -> tuple[float, float]:
    """Return the seconds of the all-reduce, and those of them that a device waits."""
    if hosts * devices == 1:
        return 0.0, 0.0
    gradients = system.all_reduce(network.gradients, network.buckets, hosts, devices)
    last = system.all_reduce(min(system.last, network.gradients), 1, hosts, devices)
    other = system.all_reduce(0, OTHER_MESSAGES, hosts, devices)
    return gradients + other, max(last, gradients - system.overlap * BACKWARD * compute) + other


def predict(system: System, network: Network, microbatch: int, hosts: int, devices: int | None = None) -> Step:
    """Return a step of `hosts` hosts with `devices` devices each (all by default), each with `microbatch` images."""
    devices = devices or system.devices
    compute = microbatch * system.image_s
    all_reduce, exposed = exposed_seconds(system, network, compute, hosts, devices)
    loader = microbatch * system.devices * system.load_s / system.loaders
    return Step(microbatch * hosts * devices, compute, all_reduce, exposed, loader)


def efficiency(system: System, network: Network, microbatch: int, hosts: int) -> float:
    """Return the rate of all devices as a share of that of as many devices alone."""
    step, alone = predict(system, network, microbatch, hosts), predict(system, network, microbatch, 1, 1)
    return step.rate / (hosts * system.devices * alone.rate)


def image_seconds(step: float, system: System, network: Network, microbatch: int) -> float:
    """Return the seconds of an image with which the model gives a measured step of one host with all its devices."""
    all_of_it, least = (exposed_seconds(system, network, c, 1, system.devices)[1] for c in (0.0, float("inf")))
    return min(step - least, (step - all_of_it) / (1 - system.overlap * BACKWARD)) / microbatch
