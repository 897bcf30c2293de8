// Calls one heuristic on rows of int64 from stdin and writes one int64 per row to stdout.
// evosplit export fills in the function as the patched tree holds it, and compiles this as host C++17.
// With any argument it takes walks instead (start, step, length) and says where along each the answer falls.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <vector>

using std::max;
using std::min;

@FUNCTION@

static int64_t answer(int64_t const* row) {
    return @CALL@;
}

static constexpr int kInputs = @INPUTS@;

// A walk is kInputs numbers to start from, as many to add at each step, and the number of steps.
// Its report is the first step whose answer is smaller than the one before, and both answers; -1 where none is.
static int walk() {
    int64_t row[2 * kInputs + 1];
    while (std::fread(row, sizeof(row), 1, stdin) == 1) {
        int64_t last = INT64_MIN;
        int64_t at[kInputs];
        for (int64_t step = 0; step < row[2 * kInputs]; step++) {
            for (int i = 0; i < kInputs; i++) { at[i] = row[i] + step * row[kInputs + i]; }
            int64_t const found = answer(at);
            if (found < last) {
                int64_t const report[3] = {step, last, found};
                std::fwrite(report, sizeof(report), 1, stdout);
                last = INT64_MAX;
                break;
            }
            last = found;
        }
        if (last != INT64_MAX) {
            int64_t const report[3] = {-1, 0, 0};
            std::fwrite(report, sizeof(report), 1, stdout);
        }
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
