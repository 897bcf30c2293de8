// Decides on a whole table of shapes; evaluators/language/native.py fills in the functions of one program.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <exception>
#include <tuple>
#include <vector>

@CHECKS@

@FUNCTIONS@

static int64_t table__count;
static int64_t const* table__shape;
static int64_t const* table__stock;
static int64_t const* table__work;
static std::vector<std::vector<@ITEM@>> table__n_blocks;

// Columns follow each other row by row; lengths say how many of the blocks belong to each row.
extern "C" void table__load(int64_t count, int64_t const* shape, int64_t const* stock, int64_t const* work,
                            int64_t const* lengths, int64_t const* blocks) {
    table__count = count;
    table__shape = shape;
    table__stock = stock;
    table__work = work;
    for (int64_t row = 0; row < count; row++) {
        table__n_blocks.emplace_back(blocks, blocks + lengths[row]);
        blocks += lengths[row];
    }
}

// Writes num_splits, pack_gqa (-1 for None), sm_margin and blocks_per_split of each row; returns the first row without
// an answer, or the number of rows.
extern "C" int64_t table__decide(double const* numbers, int32_t* out) {
    for (int64_t row = 0; row < table__count; row++) {
        try {
            auto const [num_splits, pack_gqa, sm_margin] = schedule__(table__shape + row * @SHAPE_FIELDS@, numbers);
            int64_t const cap = num_splits ? num_splits : table__stock[row];
            out[4 * row] = int32_t(checked__whole_within(int64_t(num_splits), 0, @MOST_SPLITS@));
            out[4 * row + 1] = int32_t(pack_gqa);
            out[4 * row + 2] = int32_t(checked__whole_within(int64_t(sm_margin), 0, @MOST_MARGIN@));
            int64_t const blocks = blocks__(table__work + row * @WORK_FIELDS@, cap, table__n_blocks[row], numbers);
            out[4 * row + 3] = int32_t(checked__whole_within(blocks, 0, INT32_MAX));
        } catch (checked__Failure const&) {
            return row;
        } catch (std::exception const&) {
            return row;
        }
    }
    return table__count;
}
