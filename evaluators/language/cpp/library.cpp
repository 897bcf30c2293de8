// Decides on a whole table of shapes; evaluators/language/native.py fills in the functions of one program.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <exception>
#include <map>
#include <tuple>
#include <vector>

@CHECKS@

@FUNCTIONS@

static int64_t table__count;
static int64_t const* table__shape;
static int64_t const* table__stock;
static int64_t const* table__work;
static std::vector<std::vector<@ITEM@>> table__n_blocks;

// Columns follow each other row by row, those of work @WORKS@ to a row; lengths say how many blocks belong to each.
extern "C" void table__load(int64_t count, int64_t const* shape, int64_t const* stock, int64_t const* work,
                            int64_t const* lengths, int64_t const* blocks) {
    table__count = count;
    table__shape = shape;
    table__stock = stock;
    table__work = work;
    for (int64_t work_row = 0; work_row < count * @WORKS@; work_row++) {
        table__n_blocks.emplace_back(blocks, blocks + lengths[work_row]);
        blocks += lengths[work_row];
    }
}

// Writes what schedule answers (a flag is -1 for None) and blocks_per_split of each row; returns the first row without an
// answer, or the number of rows.
extern "C" int64_t table__decide(double const* numbers, int32_t* out) {
    for (int64_t row = 0; row < table__count; row++) {
        try {
            auto const [@ANSWER@] = schedule__(table__shape + row * @SHAPE_FIELDS@, numbers);
            @WRITTEN@
            int64_t const cap = answer__0 ? answer__0 : table__stock[row];
            int64_t const at = row * @WORKS@ + (@WHICH@);
            int64_t const blocks =
                cap ? blocks__(table__work + at * @WORK_FIELDS@, cap, table__n_blocks[at], numbers) : @LEAST@;
            out[@WIDTH@ * row + @WIDTH@ - 1] = int32_t(checked__whole_within(blocks, @LEAST@, @MOST@));
        } catch (checked__Failure const&) {
            return row;
        } catch (std::exception const&) {
            return row;
        }
    }
    return table__count;
}
