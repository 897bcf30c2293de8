// The queue of CTAs, played through by a warp: a byte for each half block of time counts the SMs that are free then.
int const warp = threadIdx.x / 32;
auto const summed = [&](int first, int end, auto const& value) {
    int64_t total = 0;
    #pragma unroll 1
    for (int k = first + lane; k < end; k += 32) { total += value(k); }
    for (int i = 16; i > 0; i /= 2) { total += __shfl_xor_sync(0xffffffff, total, i); }
    return total;
};
auto const over_batch = [&](auto const& rows, auto const& value) {
    return summed(0, num_batch, [&](int row) { return rows[row] == 0 ? 0 : value(int(rows[row])); });
};
auto const up_to = [&](int value) {
    for (int i = 1; i < 32; i *= 2) {
        int const before = __shfl_up_sync(0xffffffff, value, i);
        if (lane >= i) { value += before; }
    }
    return value;
};
auto const cta_queue = [&](auto const& rows, int64_t tiles, int64_t blocks, int64_t most, int sms, int turn,
                           bool longest_first) {
    uint8_t* const freed = queue_freed[warp];
    uint16_t* const ends = queue_ends[warp];
    auto const within = [](int64_t x, int low, int high) { return int(x < low ? low : x > high ? high : x); };
    auto const slot_of = [](int slot) { return slot < @SLOTS@ ? slot : slot - @SLOTS@; };
    int const num_tiles = within(tiles, 1, 4096), size = within(blocks, 1, 1 << 20), cap = within(most, 1, 256);
    #pragma unroll 1
    for (int slot = lane; slot < @SLOTS@; slot += 32) { freed[slot] = slot == 0 ? sms : 0; }
    __syncwarp();
    // Times in half blocks: of slot `at`, and when the last CTA so far ends.
    int now = 0, at = 0, latest = 0;
    int row = 0, each = INT_MAX, n = 0;
    while (true) {
        // The next sequences, equal ones together, and how many they are.
        int alike = 0;
        if (longest_first) {
            // The largest part that is left, and of these the shortest sequence.
            int next_each = 0, next_n = INT_MAX;
            #pragma unroll 1
            for (int i = lane; i < num_batch; i += 32) {
                int const own = rows[i];
                if (own == 0) { continue; }
                int const own_each = cutlass::ceil_div(own, std::min(cap, cutlass::ceil_div(own, size)));
                bool const is_left = own_each < each || (own_each == each && own > n);
                if (!is_left || own_each < next_each || (own_each == next_each && own > next_n)) { continue; }
                alike = own_each == next_each && own == next_n ? alike + 1 : 1;
                next_each = own_each;
                next_n = own;
            }
            each = __reduce_max_sync(0xffffffff, next_each);
            n = __reduce_min_sync(0xffffffff, next_each == each ? next_n : INT_MAX);
            alike = __reduce_add_sync(0xffffffff, next_each == each && next_n == n ? alike : 0);
        } else {
            #pragma unroll 1
            for (; row < num_batch && (alike == 0 || rows[row] == n || rows[row] == 0); row++) {
                if (rows[row] != 0) {
                    n = rows[row];
                    alike++;
                }
            }
        }
        if (alike == 0) { break; }
        int const parts = std::min(cap, cutlass::ceil_div(n, size));
        each = cutlass::ceil_div(n, parts);
        int const full = cutlass::ceil_div(n, each) - 1, rest = n - each * full;
        // Full parts, the rest, then parts that are left empty.
        #pragma unroll 1
        for (int kind = 0; kind < 3; kind++) {
            int const took = 2 * (kind == 0 ? each : kind == 1 ? rest : 0) + turn;
            int left = (kind == 0 ? full : kind == 1 ? 1 : parts - full - 1) * alike * num_tiles;
            while (left > 0 && took > 0) {
                if (left >= sms && latest - now <= took) {
                    // Each SM takes one after the other: whole rounds at once.
                    now += left / sms * took;
                    latest += left / sms * took;
                    left %= sms;
                    continue;
                }
                // Each lane holds the SMs of one slot. No CTA that begins in these slots ends in them.
                int const slot = slot_of(at + lane), free = lane < took ? freed[slot] : 0;
                int const upto = up_to(free);
                int const taken = std::min(free, std::max(0, left - (upto - free)));
                if (taken > 0) {
                    freed[slot] -= taken;
                    freed[slot_of(slot + took)] += taken;
                }
                unsigned const busy = __ballot_sync(0xffffffff, taken > 0);
                unsigned const kept = __ballot_sync(0xffffffff, free > taken);
                if (busy != 0) { latest = std::max(latest, now + took + 31 - __clz(busy)); }
                left -= std::min(left, __shfl_sync(0xffffffff, upto, 31));
                int const passed = kept != 0 ? __ffs(kept) - 1 : std::min(32, took);
                now += passed;
                at = slot_of(at + passed);
                __syncwarp();
            }
        }
    }
    int num_ends = 0;
    for (int back = latest - now; back >= 0; back -= 32) {
        int const later = back - lane, free = later < 0 ? 0 : freed[slot_of(at + later)];
        int const upto = up_to(free);
        #pragma unroll 1
        for (int i = upto - free; i < upto; i++) { ends[num_ends + i] = later; }
        num_ends += __shfl_sync(0xffffffff, upto, 31);
    }
    __syncwarp();
    struct Ends {
        uint16_t const* later;
        int now;
        __device__ int operator[](int k) const { return now + later[k]; }
    };
    return Ends{ends, now};
};
