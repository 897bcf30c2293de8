// Stands in for FA3's flash.h where evosplit export compiles a target's own get_num_splits on the host.
// Holds the fields that the decision reads, under their names there, and GPUs that are told apart by their names alone:
// GPU_NAMES, an array of them, stands in front of this text.

#include <cstring>
#include <map>

struct cudaDeviceProp {
    char name[256];
};
enum cudaError_t { cudaSuccess };
static int current_gpu = 0;
inline cudaError_t cudaGetDevice(int* device) {
    *device = current_gpu;
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    std::strcpy(properties->name, GPU_NAMES[device]);
    return cudaSuccess;
}
// What the callers have, by their names there.
inline cudaDeviceProp* get_device_prop() {
    static cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, current_gpu);
    return &properties;
}
namespace at::cuda {
inline cudaDeviceProp* getCurrentDeviceProperties() { return get_device_prop(); }
}

struct Flash_fwd_params {
    using index_t = int64_t;
    int b, seqlen_q, seqlen_k, h, h_k, d, dv, d_rounded, dv_rounded, page_size, num_sm;
    int arch = 90, num_splits = 0, seqlen_knew = 0, attention_chunk = 0, window_size_left = -1, window_size_right = -1;
    bool is_causal, is_local = false, is_e4m3 = false, is_bf16 = true, pagedkv_tma = false;
    float softcap = 0.f;
    int* cu_seqlens_q = nullptr;
    int* cu_seqlens_k = nullptr;
    int* seqused_q = nullptr;
    int* seqused_k = nullptr;
    int* leftpad_k = nullptr;
    int* page_table = nullptr;
    int* num_splits_dynamic_ptr = nullptr;
    void* knew_ptr = nullptr;
};

// Sizes of head_dim that FA3 compiles kernels for (hopper/flash_api.cpp, round_up_headdim).
inline int round_up_head_dim(int d) { return d <= 64 ? 64 : d <= 96 ? 96 : d <= 128 ? 128 : d <= 192 ? 192 : 256; }

// Inputs in a row: batch, seqlen_q, seqlen_k, num_heads_q, num_heads_kv, head_dim, varlen, page_size, num_sm, causal,
// window (keys to the left, -1 for none), dtype (0 bf16, 1 fp16, 2 e4m3), arch, GPU (of GPU_NAMES).
inline Flash_fwd_params attention_call(int64_t const* row) {
    static int there = 0;
    Flash_fwd_params params{};
    params.b = int(row[0]);
    params.seqlen_q = int(row[1]);
    params.seqlen_k = int(row[2]);
    params.h = int(row[3]);
    params.h_k = int(row[4]);
    params.d = params.dv = int(row[5]);
    params.d_rounded = params.dv_rounded = round_up_head_dim(params.d);
    params.seqused_k = params.num_splits_dynamic_ptr = row[6] ? &there : nullptr;
    params.page_size = row[7] ? int(row[7]) : 1;
    params.page_table = row[7] ? &there : nullptr;
    params.num_sm = int(row[8]);
    params.is_causal = row[9] != 0 && row[10] < 0;
    params.window_size_left = int(row[10]);
    params.is_local = row[10] >= 0;
    params.window_size_right = params.is_local || params.is_causal ? 0 : -1;
    params.is_bf16 = row[11] == 0;
    params.is_e4m3 = row[11] == 2;
    params.arch = int(row[12]);
    current_gpu = int(row[13]);
    return params;
}
