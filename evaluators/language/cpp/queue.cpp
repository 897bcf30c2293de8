auto const cta_queue = [](auto const& n_blocks, int64_t tiles, int64_t blocks, int64_t most, int64_t sms, int64_t turn,
                          bool longest_first) {
    // When each SM is done with a queue of CTAs, in half blocks, the last one first.
    auto const within = [](int64_t x, int64_t low, int64_t high) { return std::min(std::max(x, low), high); };
    tiles = within(tiles, 1, 4096);
    blocks = within(blocks, 1, 1 << 20);
    most = within(most, 1, 256);
    sms = within(sms, 1, 1024);
    turn = within(turn, 0, 1024);
    std::vector<std::array<int64_t, 3>> rows;  // blocks of the longest part, all blocks, parts
    for (int64_t const length : n_blocks) {
        if (rows.size() == size_t(1) << 16) { break; }
        int64_t const n = within(length, 1, 1 << 20);
        int64_t const parts = std::min(most, (n + blocks - 1) / blocks);
        rows.push_back({(n + parts - 1) / parts, n, parts});
    }
    if (longest_first) {
        std::sort(rows.begin(), rows.end(),
                  [](auto const& a, auto const& b) { return a[0] != b[0] ? a[0] > b[0] : a[1] < b[1]; });
    }
    std::map<int64_t, int64_t> idle{{0, sms}};  // SMs by when they are free
    for (size_t row = 0, next = 0; row < rows.size(); row = next) {
        while (next < rows.size() && rows[next] == rows[row]) { next++; }
        auto const [each, n, parts] = rows[row];
        int64_t const alike = tiles * int64_t(next - row), full = (n + each - 1) / each - 1;
        // Equal neighbours are one group: full parts, the rest, then parts that are left empty.
        int64_t const lengths[] = {each, n - each * full, 0}, counts[] = {full, 1, parts - full - 1};
        for (int kind = 0; kind < 3; kind++) {
            int64_t const took = 2 * lengths[kind] + turn;
            int64_t left = took > 0 ? counts[kind] * alike : 0;
            while (left > 0) {
                auto const [at, free] = *idle.begin();
                if (left >= sms && idle.rbegin()->first - at <= took) {
                    // Each SM takes one after the other: whole rounds at once.
                    std::map<int64_t, int64_t> later;
                    for (auto const& [time, count] : idle) { later[time + left / sms * took] = count; }
                    idle = later;
                    left %= sms;
                } else {
                    int64_t const taken = std::min(left, free);
                    left -= taken;
                    if (taken == free) { idle.erase(at); } else { idle[at] -= taken; }
                    idle[at + took] += taken;
                }
            }
        }
    }
    std::vector<int> finish;
    for (auto it = idle.rbegin(); it != idle.rend(); it++) {
        finish.insert(finish.end(), it->second, int(std::min<int64_t>(it->first, 1 << 30)));
    }
    return finish;
};
