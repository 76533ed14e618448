"""The TPU compiler takes the train step; what its program moves is read right; times are bounds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msa_jax.benchmarks import hlo, roofline
from msa_jax.benchmarks.hlo import Collective

ROOT = Path(__file__).parents[1]
# Pieces of what libtpu 0.0.42 writes.
PROGRAM = """
HloModule jit_step, is_scheduled=true

%fused_computation.1 (param_0.1: bf16[32,64]) -> (bf16[32,64], bf16[128,64], s32[2]) {
  %param_0.1 = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[128,64]{1,0:T(8,128)(2,1)} all-gather(%param_0.1), channel_id=12, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[32,64]{1,0:T(8,128)(2,1)S(1)}, bf16[128,64]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%fused_computation.2 (param_0.2: bf16[128,64]) -> bf16[128,64] {
  %param_0.2 = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.2 = bf16[128,64]{1,0:T(8,128)(2,1)} all-gather(%param_0.2), channel_id=12, replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}
  ROOT %custom-call.2 = bf16[128,64]{1,0:T(8,128)(2,1)S(1)} custom-call(%all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (input_0: f32[192,64]) -> f32[48,64] {
  %input_0 = f32[192,64]{1,0:T(8,128)} parameter(0)
  %all-reduce.169 = f32[192,64]{1,0:T(8,128)} all-reduce(%input_0), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[48,64]{1,0:T(8,128)} dynamic-slice(%all-reduce.169, %c, %d)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%add_one
  %v = f32[128,16]{1,0:T(8,128)S(1)} constant({...})
  %d = f32[8,16]{1,0:T(8,128)S(1)} convolution(%y, %v), dim_labels=bf_io->bf
  %r = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%y), channel_id=3, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

ENTRY %main.1 (a: f32[8,3], b: bf16[32,64], g: f32[192,64]) -> f32[8,128] {
  %a = f32[8,3]{1,0:T(8,128)} parameter(0)
  %b = bf16[32,64]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %g = f32[192,64]{1,0:T(8,128)S(1)} parameter(2)
  %f.1 = (bf16[32,64]{1,0:T(8,128)(2,1)S(1)}, bf16[128,64]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) fusion(%b), kind=kCustom, calls=%fused_computation.1
  %f.2 = bf16[128,64]{1,0:T(8,128)(2,1)S(1)} fusion(%b), kind=kCustom, calls=%fused_computation.2
  %f.3 = f32[48,64]{1,0:T(8,128)S(1)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %w = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%t.0), condition=%cond, body=%body
  %s = f32[8,3]{1,0:T(8,128)S(1)} copy-start(%a)
  %o = ((f32[64,128]{1,0:T(8,128)}), f32[16,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%q), slice={[0:16], [0:128]}
  ROOT %z = f32[8,3]{1,0:T(8,128)} fusion(%a), kind=kLoop, calls=%add_two
}
"""  # noqa: E501


def test_what_a_program_moves() -> None:
    program = hlo.read(PROGRAM, devices=8, trips=5)
    assert program.collectives == (
        Collective("all-gather", 128 * 64 * 2, (0, 1, 2, 3)),  # in two pieces, counted once
        Collective("reduce-scatter", 192 * 64 * 4, (0, 1, 2, 3)),
        Collective("all-reduce", 8 * 128 * 4, (0, 2, 4, 6), times=5),
    )
    tile = 8 * 128 * 4  # a is padded to it
    assert program.hbm_bytes == 5 * (2 + 1 + 1) * tile + (2 + 2) * tile
    assert program.repeated_flops == 4 * 2 * 8 * 128 * 16  # the compiler's own count has the first


# The passes of a loop are not told: a counter from 0 to 8 by twos. In each one a layer's slice of a
# stack is read, and another one is written in place.
LOOP = """
%sliced (s: f32[24,8,128], i: s32[]) -> f32[8,128] {
  %s = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %z = s32[]{:T(128)} constant(0)
  %k = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%s, %i, %z, %z), dynamic_slice_sizes={1,8,128}
  ROOT %b = f32[8,128]{1,0:T(8,128)S(1)} bitcast(%k)
}

%updated (s: f32[24,8,128], i: s32[], u: f32[1,8,128]) -> f32[24,8,128] {
  %s = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %u = f32[1,8,128]{2,1,0:T(8,128)S(1)} parameter(2)
  %z = s32[]{:T(128)} constant(0)
  ROOT %d = f32[24,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%s, %u, %i, %z, %z)
}

%body (p: (s32[], f32[24,8,128])) -> (s32[], f32[24,8,128]) {
  %p = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}) parameter(0)
  %c = s32[]{:T(128)S(6)} get-tuple-element(%p), index=0
  %s = f32[24,8,128]{2,1,0:T(8,128)} get-tuple-element(%p), index=1
  %two = s32[]{:T(128)S(6)} constant(2)
  %f = f32[8,128]{1,0:T(8,128)S(1)} fusion(%s, %c), kind=kLoop, calls=%sliced
  %g = f32[24,8,128]{2,1,0:T(8,128)} fusion(%s, %c, %f), kind=kLoop, calls=%updated
  %n = s32[]{:T(128)S(6)} add(%c, %two)
  ROOT %t = (s32[]{:T(128)S(6)}, f32[24,8,128]{2,1,0:T(8,128)}) tuple(%n, /*index=1*/%g)
}

%cond (p: (s32[], f32[24,8,128])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}) parameter(0)
  %c = s32[]{:T(128)} get-tuple-element(%p), index=0
  %limit = s32[]{:T(128)} constant(8)
  ROOT %l = pred[]{:T(512)} compare(%c, %limit), direction=LT
}

ENTRY %main (a: f32[24,8,128]) -> f32[24,8,128] {
  %a = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %w = (s32[]{:T(128)}, f32[24,8,128]{2,1,0:T(8,128)}) while(%t.0), condition=%cond, body=%body
}
"""


def test_a_loop_moves_slices_of_what_is_stacked() -> None:
    assert hlo.read(LOOP, devices=1).hbm_bytes == 4 * (1 + 1) * 8 * 128 * 4


@pytest.mark.parametrize(
    ("left", "right", "result", "how", "flops"),
    [
        ("32,64", "64,16", "32,16", "dim_labels=bf_io->bf", 2 * 32 * 64 * 16),
        (  # four heads, one after the other, of two examples
            *("2,50,4,16", "2,50,4,16", "2,4,50,50"),
            "window={size=2x4 stride=1x3 lhs_dilate=2x4}, dim_labels=0b1f_0o1i->01bf",
            2 * 2 * 4 * 50 * 50 * 16,
        ),
        (  # two parts of a layer's outputs
            *("32,64,1", "64,2,8", "32,2,8"),
            "window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=bf0_i0o->b0f",
            2 * 32 * 64 * 16,
        ),
        ("4,8,3", "3,5", "4,8,5", "lhs_contracting_dims={2}", 2 * 4 * 8 * 5 * 3),
    ],
)
def test_products_are_counted_in_every_pass(
    left: str, right: str, result: str, how: str, flops: int
) -> None:
    operation = "convolution" if "dim_labels" in how else "dot"
    product = f"""
%body (p: f32[]) -> f32[] {{
  %a = bf16[{left}]{{0}} parameter(0)
  %b = bf16[{right}]{{0}} parameter(1)
  %c = bf16[{result}]{{0}} {operation}(%a, %b), {how}
}}

ENTRY %main (a: f32[]) -> f32[] {{
  %w = () while(%t.0), condition=%cond, body=%body
}}
"""
    assert hlo.read(product, devices=1, trips=6).repeated_flops == 5 * flops


@pytest.mark.parametrize(
    ("named", "group"),
    [
        ("replica_groups={{4,5},{0,1}}", (4, 5)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("replica_groups=mesh['x'=8] {'x'}", tuple(range(8))),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("replica_groups=mesh['x'=8] {'x':(2)2}", (0, 2)),
        ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}", (0, 4)),
        ("replica_groups={}", tuple(range(8))),
    ],
)
def test_groups_in_every_notation(named: str, group: tuple[int, ...]) -> None:
    text = (
        f"ENTRY %m (a: f32[]) -> f32[] {{\n  %r = f32[64]{{0}} all-reduce(%a), {named}, x=y\n}}\n"
    )
    assert hlo.read(text, devices=8).collectives[0].group == group


def test_times_follow_the_worked_examples_of_the_scaling_book() -> None:
    chip = roofline.CHIPS["v5e"]

    def places(*lengths: int) -> np.ndarray:
        return np.stack(np.meshgrid(*map(np.arange, lengths), indexing="ij"), -1).reshape(-1, 3)

    size = 2048 * 8192 * 2
    gather = Collective("all-gather", size, tuple(range(4)))
    assert roofline.seconds(gather, chip, places(8, 4, 1)) == pytest.approx(3 * size / 4 / 50e9)
    tiny = Collective("all-gather", 1024, tuple(range(4)))
    assert roofline.seconds(tiny, chip, places(8, 4, 1)) == pytest.approx(3e-6)
    everywhere = Collective("all-reduce", size, tuple(range(256)))
    both_ways = 2 * size * 255 / 256 / (4 * 50e9)
    assert roofline.seconds(everywhere, chip, places(16, 16, 1)) == pytest.approx(both_ways)
    assert roofline.seconds(Collective("all-reduce", size, (0,)), chip, places(1, 1, 1)) == 0
    found = roofline.step_time(
        chip, flops=197e9, hbm_bytes=0, collectives=[gather] * 2, places=places(8, 4, 1)
    )
    assert found.limit == "interconnect"
    assert (found.hidden, found.exposed) == (found.interconnect, 1e-3 + found.interconnect)


def compile_for_tpu(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/compile_for_tpu.py", "--config=configs/attention.py"]
    return subprocess.run([*command, *flags], cwd=ROOT, timeout=300, capture_output=True, text=True)


TINY = ("width=32", "hidden=256", "num_heads=2", "num_layers=1")


@pytest.mark.slow
def test_a_step_compiles_for_a_slice(tmp_path: Path) -> None:
    pytest.importorskip("libtpu", reason='needs the TPU compiler: pip install -e ".[tpu]"')
    out = tmp_path / "out.json"
    flags = [f"--config.model.encoder.{field}" for field in TINY]
    flags += ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--batch_per_chip=8"]
    done = compile_for_tpu("--topology=v5e:2x2", f"--out={out}", *flags)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(out.read_text())
    assert (found["chips"], found["batch"], found["mesh"]["fsdp"]) == (4, 32, 4)
    assert found["memory"]["fits"]
    assert found["memory"]["arguments"] >= found["state_gib_per_chip"]
    # Large parameters are gathered, and their gradients summed (the compiler chooses how).
    moved = found["collectives"]
    assert moved.pop("all-gather")["count"] >= 6
    assert sum(each["bytes"] for each in moved.values()) > 6 * 32 * 256
    one = found["one_chip"]["step_seconds"]
    assert one["interconnect"] == 0
    assert found["step_seconds"]["arithmetic"] == pytest.approx(one["arithmetic"], rel=0.1)
    efficiency = found["scaling_efficiency"]
    assert 0 < efficiency["exposed"] <= efficiency["hidden"] < 1.5
    assert "| v5e:2x2 | 4 | 8 |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--topology=v5e:3x5",), "v5e:3x5 is no slice of v5e. Known: v5e:1x1, v5e:2x2"),
        (("--topology=v7",), "--topology=v7: expected a TPU and its shape, such as v5e:4x4"),
        (("--topology=v5e:2x4", "--config.num_seeds=2"), "config.num_seeds=2"),
        (("--topology=v5e:2x4", "--config.training.batch_size=12"), "libtpu"),
        (("--topology=v5e:2x4", "--config.mesh.model=3"), "libtpu"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(flags: tuple[str, ...], words: str) -> None:
    if words == "libtpu":
        pytest.importorskip("libtpu", reason='needs the TPU compiler: pip install -e ".[tpu]"')
        words = "use 16" if "batch" in flags[1] else ".model=3 do not multiply to the 8 devices"
    done = compile_for_tpu(*flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_compiler_is_named() -> None:
    code = (
        "import sys; sys.modules['libtpu'] = None\n"
        "from msa_jax.benchmarks import tpu\n"
        "tpu._devices('v5e:2x2')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True
    )
    assert 'pip install -e ".[tpu]"' in done.stderr
