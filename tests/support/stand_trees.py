# ruff: noqa: E501
"""Small stand-ins for the targets' repositories, with the same anchors, written for these tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HEURISTICS = """\
#pragma once

#include <vector>
{extra}
inline bool wants_packing(bool varlen_q, int seqlen_q) {{
    return varlen_q || seqlen_q == 1;
}}

// The number of splits, by wave efficiency.
inline int num_splits_heuristic(int total_mblocks, int num_SMs, int num_n_blocks, int num_m_blocks, int size_one_kv_head, bool is_causal_or_local, int max_splits) {{
    // A nearly full device stays unsplit.
    if (total_mblocks >= 0.8f * num_SMs) {{
        int const l2 = 50 * 1024 * 1024;
        if (size_one_kv_head > l2 && num_m_blocks >= num_SMs * 2 && !is_causal_or_local) {{
            return std::min((size_one_kv_head + l2 - 1) / l2, max_splits);
        }}
        return 1;
    }}
    // Stand-in guard: four blocks are not worth it.
    if (num_n_blocks <= 4) {{ return 1; }}
    max_splits = std::min({{max_splits, num_SMs, num_n_blocks}});
    float best = 0.f;
    std::vector<float> efficiency;
    efficiency.reserve(max_splits);
    for (int s = 1; s <= max_splits; s++) {{
        float waves = float(total_mblocks * s) / num_SMs;
        efficiency.push_back(waves / ceil(waves));
        best = std::max(best, efficiency.back());
    }}
    for (int s = 1; s <= max_splits; s++) {{
        if (efficiency[s - 1] >= 0.85 * best) {{ return s; }}
    }}
    return 1;
}}
"""

TILE_SIZE = """\
#pragma once
#include <tuple>

// Stand-in: head_dim 128 in bf16 alone.
constexpr std::tuple<int, int> tile_size_fwd_sm90(bool narrow, bool one_row) {
    return {one_row ? 64 : 128, narrow ? 128 : ONE_ROW_TILE};
}
"""

CALLER = """\
#include <algorithm>
#include "heuristics.h"

inline void set_gpu(Flash_fwd_params& params) {
    params.num_sm = PROPERTIES->multiProcessorCount;
}

inline bool get_pagedkv_tma(Flash_fwd_params const& params) {
    return params.page_table && params.page_size % 128 == 0 && params.seqlen_q * (params.h / params.h_k) > 128;
}

inline bool half_precision(Flash_fwd_params const& params) {
    return params.arch >= 80 && !params.is_e4m3 && (params.is_bf16 || params.d > 0);
}

inline int get_num_splits(Flash_fwd_params const& params) {
    bool const narrow = params.is_causal || params.is_local || (params.page_table && !params.pagedkv_tma);
    auto tile = tile_size_fwd_sm90(narrow, ONE_ROW);
    int const kBlockM = std::get<0>(tile);
    int const kBlockN = std::get<1>(tile);
    int const loaded = params.is_local ? std::min(params.seqlen_k, params.window_size_left + 1 + kBlockM) : params.seqlen_k;
    int const num_n_blocks = (loaded + kBlockN - 1) / kBlockN;
    int const num_m_blocks = (params.seqlen_q * (params.h / params.h_k) + kBlockM - 1) / kBlockM;
    int const bytes = params.seqlen_k * (params.d + params.dv) * 2;
    int const total_mblocks = (params.num_splits_dynamic_ptr ? 1 : params.b) * params.h_k * num_m_blocks;
    return num_splits_heuristic(total_mblocks, params.num_sm, num_n_blocks, num_m_blocks, bytes, params.is_causal || params.is_local, 128);
}
"""

PREPARE = """\
#include <cub/cub.cuh>

template <int NumWarps, bool Sort>
__global__ void prepare_varlen_num_blocks_kernel(int seqlen_k_static, int const* const seqused_k, int num_batch,
        int num_head, int qhead_per_khead, int num_sm, int num_splits_static, cutlass::FastDivmod blockm_divmod,
        cutlass::FastDivmod blockn_divmod, int* const num_splits_dynamic_ptr, bool packgqa) {
    static constexpr int kNumBatchPerWarp = 31;
    __shared__ int sum[1];
    if (threadIdx.x == 0) { sum[0] = 0; }
    __syncthreads();
    int lane = threadIdx.x % 32;
    int batch_idx = lane + kNumBatchPerWarp * (threadIdx.x / 32);
    bool const mine = batch_idx < num_batch && lane < kNumBatchPerWarp;
    int num_n_blocks = mine ? blockn_divmod.div((seqused_k ? seqused_k[batch_idx] : seqlen_k_static) + blockn_divmod.divisor - 1) : 0;
    int num_m_blocks = mine ? blockm_divmod.div((packgqa ? qhead_per_khead : 1) + blockm_divmod.divisor - 1) : 0;
    int num_splits_dynamic;
    if (num_splits_static == 1) {
        num_splits_dynamic = 1;
    } else {
        atomicAdd(sum, num_m_blocks * num_n_blocks);
        __syncthreads();
        int total_blocks = sum[0];
        // A tenth more than one wave.
        int blocks_per_sm = static_cast<int>(ceilf(float(total_blocks) * 1.1f * float(num_head) / float(num_sm)));
        num_splits_dynamic = std::max(std::min((num_n_blocks + blocks_per_sm - 1) / blocks_per_sm, num_splits_static), 1);
    }
    if (mine) { num_splits_dynamic_ptr[batch_idx] = num_splits_dynamic; }
}

void prepare_varlen_num_blocks(Flash_fwd_params &params, cudaStream_t stream, int block_m, int block_n, bool enable_pdl) {
    int num_warps = cutlass::ceil_div(params.b, 31);
    WARPS(num_warps, NumWarps, [&] {
        prepare_varlen_num_blocks_kernel<NumWarps, false><<<1, 32 * NumWarps, 0, stream>>>(
            params.seqlen_k, params.seqused_k, params.b, params.h_k, params.h / params.h_k, params.num_sm,
            params.num_splits, cutlass::FastDivmod(block_m), cutlass::FastDivmod(block_n), params.splits, true);
    });
}
"""

FA4 = """\
import math
from dataclasses import dataclass


def num_splits_heuristic(total_mblocks, num_SMs, num_n_blocks, max_splits):
    # Stand-in guard.
    if num_n_blocks <= 4:
        return 1
    if total_mblocks == 0:
        return 1
    return min(num_SMs // total_mblocks, max_splits, num_n_blocks)


@dataclass(frozen=True)
class FwdConfig:
    rows: int
    keys: int
    num_splits: int = 1


def _get_fwd_config(*, arch, head_dim, max_seqlen_q, max_seqlen_k, num_head_kv, qhead_per_kvhead, pack_gqa,
                    batch_size, local, num_splits, device, **rest):
    tile = FwdConfig(128, 128)
    rows = max_seqlen_q * (qhead_per_kvhead if pack_gqa else 1)
    stage = tile.rows * (2 if rows > tile.rows else 1)
    total = batch_size * num_head_kv * math.ceil(rows / stage)
    if num_splits < 1:
        sms = get_num_sms_for_selection(device.index, arch)
        num_splits = num_splits_heuristic(total, sms, math.ceil(max_seqlen_k / tile.keys), 128)
    return FwdConfig(tile.rows, tile.keys, num_splits)
"""

FA4_PREPARE = """\
class Prepare:
    def blocks(self, total_blocks, num_sm):
        sm_margin = max(Float32(num_sm) / 128 + 0.001, 1.1)
        blocks_per_sm = cutlass.max(
            Int32(Float32(total_blocks) * sm_margin * Float32(self.nheads_computed) / Float32(num_sm)), Int32(1)
        )
        return blocks_per_sm
"""

VLLM = '''\
"""Stand-in for the attention backend."""

import copy
from dataclasses import dataclass

import torch


def _get_sliding_window_configs(config):
    return copy.copy(config)


@dataclass
class FlashAttentionMetadataBuilder:
    max_num_splits: int = 0
    model_config: object = None
    aot_schedule: bool = True
    headdim: int = 128
    kv_cache_dtype: object = None
    aot_sliding_window: tuple = (-1, -1)
    device: object = None

    def zeros(self):
        return torch.zeros(4, device=self.device)

    def longest(self):
        return self.model_config.max_model_len

    def build(self, common_attn_metadata):
        num_reqs = common_attn_metadata.num_reqs
        num_actual_tokens = common_attn_metadata.num_actual_tokens
        max_num_splits = 0
        if self.use_full_cuda_graph and num_actual_tokens <= self.max_cudagraph_size:
            max_num_splits = self.max_num_splits
        if self.invariant:
            max_num_splits = 1

        def schedule(batch_size):
            if not self.aot_schedule:
                return None
            return get_scheduler_metadata(
                batch_size=batch_size,
                headdim=self.headdim,
                qkv_dtype=self.kv_cache_dtype,
                window_size=self.aot_sliding_window,
                num_splits=max_num_splits,
            )

        return schedule(num_reqs), max_num_splits
'''

HOPPER = {
    "hopper/heuristics.h": HEURISTICS.format(extra=""),
    "hopper/tile_size.h": TILE_SIZE.replace("ONE_ROW_TILE", "176"),
    "hopper/flash_api.cpp": CALLER.replace("ONE_ROW", "false").replace(
        "PROPERTIES", "at::cuda::getCurrentDeviceProperties()"
    ),
    "hopper/flash_api_stable.cpp": CALLER.replace("ONE_ROW", "false").replace("PROPERTIES", "get_device_prop()"),
    "hopper/flash_prepare_scheduler.cu": PREPARE,
    "flash_attn/cute/interface.py": FA4,
}
FILES = {
    "fa3": HOPPER,
    "fa3-sgl": HOPPER,
    "fa3-vllm": {
        **{n: t for n, t in HOPPER.items() if n != "hopper/flash_api_stable.cpp"},
        "hopper/flash_api.cpp": CALLER.replace("ONE_ROW", "use_one_mma_wg(params)").replace(
            "PROPERTIES", "get_device_prop()"
        ),
        "hopper/heuristics.h": HEURISTICS.format(
            extra='#include "flash.h"\n\ninline bool use_one_mma_wg(Flash_fwd_params const& params) {\n    return params.seqlen_q * (params.h / params.h_k) <= 64;\n}\n'
        ),
    },
    "vllm": {"vllm/v1/attention/backends/flash_attn.py": VLLM, "pyproject.toml": "[tool.ruff]\nline-length = 88\n"},
}
FILES |= {f"{name}-{part}": FILES[name] for name in ("fa3", "fa3-vllm", "fa3-sgl") for part in ("prepare", "whole")}
FILES["fa4"] = {**HOPPER, "flash_attn/cute/prepare_scheduler.py": FA4_PREPARE}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def make_tree(folder: Path, target: str, *, stand_in: bool = False) -> Path:
    """A git checkout with the anchors of a target; a real one where EVOSPLIT_TREE_<TARGET> names it."""
    real = os.environ.get(f"EVOSPLIT_TREE_{target.upper().replace('-', '_')}")
    if real and not stand_in:
        # A clone: some tests commit to their tree.
        git(folder.parent, "clone", "-q", "--shared", "--no-checkout", real, str(folder))
        # A partial clone lacks objects of other folders.
        git(folder, "sparse-checkout", "set", "--no-cone", "/hopper/", "/flash_attn/cute/", "/vllm/", "/pyproject.toml")
        git(folder, "checkout", "-q")
        return folder
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for name, text in FILES[target].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Stand-in")
    return folder


def altered_tree(folder: Path, target: str, file: str, old: str, new: str, *, stand_in: bool = True) -> Path:
    """Such a checkout with another text in a file, committed."""
    tree = make_tree(folder, target, stand_in=stand_in)
    text = (tree / file).read_text()
    assert old in text or not stand_in
    (tree / file).write_text(text.replace(old, new))
    git(tree, "commit", "-qam", "Altered")
    return tree
