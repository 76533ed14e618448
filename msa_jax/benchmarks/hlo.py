"""What an optimised program for TPUs (its HLO text) moves: between chips, to and from memory."""

import dataclasses
import math
import re

import numpy as np

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What moves no data itself: names of what is there, ends of what was started, calls of others.
_MOVES_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "opt-barrier", "domain", "iota"),
}
_WIDTHS = {"pred": 1, "s4": 1, "u4": 1, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")

# Name, result, operation, and the rest of the line.
_Instruction = tuple[str, str, str, str]
_Computations = dict[str, list[_Instruction]]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between chips.

    Attributes:
      kind: all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute.
      size: bytes of the whole array: of what is summed, has been gathered or is to be scattered.
      group: chips of the first group that takes part, by their place in the mesh.
      times: that a step runs it, more than once in a loop.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """What a step of a program moves.

    Attributes:
      collectives: each once, in however many pieces the compiler hides it behind arithmetic.
      repeated_flops: of products of matrices in loops, from the second pass on, all that the
        compiler's own count of FLOPs leaves out.
      hbm_bytes: that a chip reads from and writes to its memory, as padded to tiles; what stays in
        the vector memory is not counted.
    """

    collectives: tuple[Collective, ...]
    repeated_flops: int
    hbm_bytes: int


def read(text: str, devices: int, trips: int = 1) -> Program:
    """Reads the text of an optimised program.

    Args:
      text: of the program that each chip runs.
      devices: how many chips there are.
      trips: of its loops, where the text does not tell.
    """
    computations, entry = _computations(text)
    found: dict[str, Collective] = {}
    repeated_flops = 0

    def passes(operation: str, rest: str) -> int:
        return _passes(computations, rest, trips) if operation == "while" else 1

    def collect(name: str, times: int) -> None:
        """Collectives and products of a computation and of those that it calls."""
        nonlocal repeated_flops
        shapes: dict[str, str] = {}
        for key, result, operation, rest in computations.get(name, ()):
            shapes[key] = result
            if times > 1 and operation in ("convolution", "dot"):
                repeated_flops += (times - 1) * _flops(result, rest, shapes)
            kind = operation.removesuffix("-start")
            if kind in _KINDS:
                channel = _CHANNEL.search(rest)
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"  # a sum of which each chip keeps its part
                    size = _logical(result)
                else:
                    size = _size(kind, operation, result, len(_group(rest, devices)))
                found[channel[1] if channel else key] = Collective(
                    kind, size, _group(rest, devices), times
                )
                continue
            for called in _CALLED.findall(rest):
                collect(called, times * passes(operation, rest))

    def moved(name: str, times: int, looped: bool = False) -> int:
        """Bytes to and from memory of a computation's instructions; fusions are one each."""
        total, shapes = 0, dict[str, str]()
        for key, result, operation, rest in computations.get(name, ()):
            shapes[key] = result
            if operation in ("while", "call", "conditional"):
                inner, loop = times * passes(operation, rest), looped or operation == "while"
                total += sum(moved(called, inner, loop) for called in _CALLED.findall(rest))
            if operation in _MOVES_NOTHING or operation.endswith("-done"):
                continue
            operands = _operands(rest)
            if operation == "slice-start":
                total += times * _sliced(result)
            elif operation.endswith("-start"):  # a tuple that holds the operands too
                total += times * _in_hbm(result)
            elif looped:
                total += times * _of_slices(computations, result, operation, rest, shapes)
            else:
                total += times * (
                    _in_hbm(result) + sum(_in_hbm(shapes.get(o, "")) for o in operands)
                )
        return total

    collect(entry, 1)
    hbm_bytes = moved(entry, 1)
    return Program(tuple(found.values()), repeated_flops, hbm_bytes)


def _computations(text: str) -> tuple[_Computations, str]:
    """(name, result, operation, rest) of each computation's instructions, and which is run."""
    found: _Computations = {}
    entry = name = ""
    for line in text.splitlines():
        instruction = _INSTRUCTION.match(line)
        if instruction and name:
            found[name].append((instruction[1], instruction[2], instruction[3], instruction[4]))
            continue
        start = _COMPUTATION.match(line)
        if start:
            name = start[2]
            found[name] = []
            entry = name if start[1] else entry
    return found, entry


def _passes(computations: _Computations, rest: str, unknown: int) -> int:
    """Of a loop: its condition compares a counter from 0 with a constant, its body adds another."""
    known, condition, body = _TRIPS.search(rest), _CONDITION.search(rest), _CALLED.search(rest)
    if known:
        return int(known[1])
    asked = computations.get(condition[1], []) if condition else []
    inside = {each[0]: each for each in (computations.get(body[1], []) if body else [])}
    limits = [_constant(each) for each in asked if each[2] == "constant"]
    counters = [_INDEX.search(each[3]) for each in asked if each[2] == "get-tuple-element"]
    if len(limits) != 1 or limits[0] is None or len(counters) != 1 or not counters[0]:
        return unknown
    carried = _operands(next(reversed(inside.values()))[3])  # of the tuple that the body ends with
    added = inside.get(carried[int(counters[0][1])], ("", "", "", ""))
    addends = [_constant(inside[each]) for each in _operands(added[3]) if each in inside]
    steps = [step for step in addends if step]
    return -(-limits[0] // steps[0]) if added[2] == "add" and len(steps) == 1 else unknown


def _constant(instruction: _Instruction) -> int | None:
    """The value of a whole number; None for anything else."""
    value = re.match(r"(\d+)\)", instruction[3]) if instruction[2] == "constant" else None
    return int(value[1]) if value else None


def _sliced(result: str) -> int:
    """Bytes of a slice under way between memories; `result` names the whole array before it."""
    whole, part = (each[0] for each in list(_ARRAY.finditer(result))[:2])
    ends = [each for each in (whole, part) if _in_hbm(each)]
    return len(ends) * _in_hbm(part, any_space=True)


def _of_slices(
    computations: _Computations, result: str, operation: str, rest: str, shapes: dict[str, str]
) -> int:
    """Bytes that an instruction moves in a loop: of what is stacked, the slice that is used."""
    operands, called = _operands(rest), _CALLED.search(rest)
    body = [(name, shapes.get(name, ""), "parameter", f"{i})") for i, name in enumerate(operands)]
    body = [*body, ("", result, operation, rest)]
    if operation == "fusion" and called:
        body = computations.get(called[1], body)
    inside = {key: shape for key, shape, _, _ in body}
    total = _in_hbm(result)
    for _, whole, inner, arguments in body:
        if inner == "dynamic-update-slice" and total:
            part = inside.get(_operands(arguments)[1], "")
            total += _in_hbm(part, any_space=True) - min(total, _in_hbm(whole))
    for index, operand in enumerate(operands):
        held, read = _in_hbm(shapes.get(operand, "")), _slices_read(computations, body, index)
        total += held if read is None else min(held, read)
    return total


def _slices_read(computations: _Computations, body: list[_Instruction], index: int) -> int | None:
    """Bytes of the slices that are all that is read of a computation's parameter, or None."""
    total, names = 0, set[str]()
    for key, result, operation, rest in body:
        operands = _operands(rest)
        places = [place for place, operand in enumerate(operands) if operand in names]
        mine = operation == "parameter" and rest.startswith(f"{index})")
        if mine or (places and operation == "bitcast"):
            names.add(key)
        elif places and operation == "fusion":
            called = _CALLED.search(rest)
            for place in places:
                inner = computations.get(called[1]) if called else None
                part = _slices_read(computations, inner, place) if inner else None
                if part is None:
                    return None
                total += part
        elif places == [0] and operation == "dynamic-slice":
            total += _in_hbm(result, any_space=True)
        elif places and not (places == [0] and operation == "dynamic-update-slice"):
            return None
    return total


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([\w.-]+)", rest.partition(")")[0])


def _flops(result: str, rest: str, shapes: dict[str, str]) -> int:
    """Of a product of matrices, which the TPU compiler writes as a convolution.

    Counted as XLA does: two a pair of numbers that meet, what stands in the padding left out.
    """
    out = _shape(result)
    left, right = (_shape(shapes.get(operand, "")) for operand in _operands(rest)[:2])
    labels, contracted = _LABELS.search(rest), _CONTRACTED.search(rest)
    if not labels:
        summed = _numbers(contracted[1]) if contracted else []
        return 2 * math.prod(out) * math.prod(left[dim] for dim in summed)
    window = dict(re.findall(r"(\w+)=(\S+)", (_WINDOW.search(rest) or ("", ""))[1]))
    pairs = 1
    for dim in range(len(labels[1]) - 2):
        size, stride, spread, apart = (
            int(window[name].split("x")[dim]) if name in window else 1
            for name in ("size", "stride", "lhs_dilate", "rhs_dilate")
        )
        pad = int(window["pad"].split("x")[dim].partition("_")[0]) if "pad" in window else 0
        length, places = left[labels[1].index(str(dim))], out[labels[3].index(str(dim))]
        at = np.add.outer(np.arange(places) * stride - pad, np.arange(size) * apart)
        pairs *= int(((at >= 0) & (at < length * spread) & (at % spread == 0)).sum())
    pairs *= left[labels[1].index("b")] * left[labels[1].index("f")] * right[labels[2].index("o")]
    groups = re.findall(r"(?:feature|batch)_group_count=(\d+)", rest)
    return 2 * pairs // math.prod(int(number) for number in groups)


def _shape(result: str) -> list[int]:
    array = _ARRAY.search(result)
    return _numbers(array[2]) if array else []


def _size(kind: str, operation: str, result: str, devices: int) -> int:
    if operation.endswith("-start") and kind != "all-reduce":
        # A tuple of what goes in, what comes out and, of some kinds, numbers of bookkeeping.
        return max(_bytes(dtype, _numbers(shape)) for dtype, shape, _ in _ARRAY.findall(result))
    return _logical(result) * (devices if kind == "reduce-scatter" else 1)


def _logical(result: str) -> int:
    return sum(_bytes(dtype, _numbers(shape)) for dtype, shape, _ in _ARRAY.findall(result))


def _in_hbm(result: str, any_space: bool = False) -> int:
    """Bytes of the arrays that lie in the chip's memory, padded to tiles; or wherever they lie."""
    total = 0
    for dtype, shape, layout in _ARRAY.findall(result):
        if "S(" in layout and not any_space:  # another memory space
            continue
        dims = _numbers(shape)
        order, _, tiling = layout.strip("{}").partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiling)
        for dim, least in zip(
            _numbers(order), reversed(_numbers(tile[1])) if tile else (), strict=False
        ):
            dims[dim] = -(-dims[dim] // least) * least
        total += _bytes(dtype, dims)
    return total


def _bytes(dtype: str, dims: list[int]) -> int:
    digits = re.search(r"\d+", dtype)
    width = _WIDTHS.get(dtype) or max(1, int(digits[0] if digits else 8) // 8)
    return width * math.prod(dims)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _group(rest: str, devices: int) -> tuple[int, ...]:
    """The first group, in any of the ways in which XLA writes them; none named is all devices."""
    mesh = _MESH.search(rest)
    if mesh:
        return _along_axes(mesh[1], mesh[2] or str(devices), mesh[3] or "", mesh[4])
    counted = _COUNTED.search(rest)
    if counted:
        ids = _arranged(counted[2], counted[3] or "").reshape(_numbers(counted[1]))
        return tuple(ids[0].tolist())
    listed = _LISTED.search(rest)
    return tuple(_numbers(listed[1])) if listed and listed[1] else tuple(range(devices))


def _arranged(dims: str, order: str) -> np.ndarray:
    """Numbers from 0 on, in `dims`, transposed by `order` where there is one."""
    numbers = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return numbers.transpose(_numbers(order)) if order else numbers


def _along_axes(axes: str, dims: str, order: str, chosen: str) -> tuple[int, ...]:
    """The group along the `chosen` axes, or parts of them, of a mesh such as 'x'=4,'y'=2."""
    parts = {name: (before, size) for name, before, size in _AXIS.findall(chosen)}
    shape: list[int] = []
    index: list[slice | int] = []
    for name, length in re.findall(r"'(\w+)'=(\d+)", axes):
        before, size = (int(part or 0) for part in parts.get(name, ("1", "1")))
        if not size:  # the whole axis
            before, size = 1, int(length)
        shape += [before, size, int(length) // (before * size)]
        index += [0, slice(None), 0]
    return tuple(_arranged(dims, order).reshape(shape)[tuple(index)].ravel().tolist())
