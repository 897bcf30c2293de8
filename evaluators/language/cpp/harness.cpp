// Calls one heuristic on rows of int64 from stdin and writes one int64 per row to stdout.
// evosplit export fills in the function as the patched tree holds it, and compiles this as host C++17.
// With any argument it takes walks instead, along which seqlen_k grows, and says where the answer falls.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <tuple>
#include <vector>

using std::max;
using std::min;

@FUNCTION@

static int64_t answer(int64_t const* row) {
    return @CALL@;
}

static constexpr int kInputs = @INPUTS@;

// A walk is kInputs numbers, then: the places of num_n_blocks, seqlen_k and size_one_kv_head among them (-1 where
// the function has no such input), block_n, bytes per key, first key, last key, keys per step.
// Its report is the first seqlen_k whose answer is smaller than the one before, and both answers; -1 where none is.
static int walk() {
    int64_t row[kInputs + 8];
    while (std::fread(row, sizeof(row), 1, stdin) == 1) {
        int64_t const* const more = row + kInputs;
        int64_t last = INT64_MIN;
        int64_t report[3] = {-1, 0, 0};
        for (int64_t keys = more[5]; keys <= more[6]; keys += more[7]) {
            if (more[0] >= 0) { row[more[0]] = (keys + more[3] - 1) / more[3]; }
            if (more[1] >= 0) { row[more[1]] = keys; }
            if (more[2] >= 0) { row[more[2]] = std::min<int64_t>(keys * more[4], 2000000000); }
            int64_t const found = answer(row);
            if (found < last) {
                report[0] = keys;
                report[1] = last;
                report[2] = found;
                break;
            }
            last = found;
        }
        std::fwrite(report, sizeof(report), 1, stdout);
    }
    return 0;
}

int main(int count, char** arguments) {
    if (count > 1) { return walk(); }
    int64_t row[kInputs];
    while (std::fread(row, sizeof(row), 1, stdin) == 1) {
        int64_t const found = answer(row);
        std::fwrite(&found, sizeof(found), 1, stdout);
    }
    return 0;
}
