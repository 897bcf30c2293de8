// What C++ checks at run time where ranges do not rule out that Python would do otherwise: fail, or go beyond 64 bits.
// The names hold two underscores in a row, which no name of a program does.

struct checked__Failure {
    bool watched;
    bool whole;
    __int128 integer;
    double number;
};

[[noreturn]] static void checked__fail(__int128 value, bool watched) { throw checked__Failure{watched, true, value, 0}; }
[[noreturn]] static void checked__fail(double value, bool watched) { throw checked__Failure{watched, false, 0, value}; }

[[maybe_unused]] static int64_t checked__in_64_bits(__int128 value, bool watched) {
    if (value > INT64_MAX || value < -INT64_MAX) { checked__fail(value, watched); }
    return int64_t(value);
}

[[maybe_unused]] static int64_t checked__plus(int64_t a, int64_t b, bool watched = false) {
    return checked__in_64_bits(__int128(a) + b, watched);
}

[[maybe_unused]] static int64_t checked__minus(int64_t a, int64_t b, bool watched = false) {
    return checked__in_64_bits(__int128(a) - b, watched);
}

[[maybe_unused]] static int64_t checked__times(int64_t a, int64_t b, bool watched = false) {
    return checked__in_64_bits(__int128(a) * b, watched);
}

template <class T> T checked__whole_within(T value, int64_t low, int64_t high, bool watched = false) {
    if (int64_t(value) < low || int64_t(value) > high) { checked__fail(__int128(value), watched); }
    return value;
}

template <class T> T checked__within(T value, double low, double high, bool watched = false) {
    if (!(double(value) >= low && double(value) <= high)) { checked__fail(double(value), watched); }
    return value;
}

template <class T> T checked__nonzero(T value, bool watched = false) {
    if (value == 0) { checked__fail(double(value), watched); }
    return value;
}

// A double that is about to become an integer.
[[maybe_unused]] static int64_t checked__whole(double value, bool watched = false) {
    if (!(value > -9.2e18 && value < 9.2e18)) { checked__fail(value, watched); }
    return int64_t(value);
}

[[maybe_unused]] static float checked__single(float value, bool watched = false) {
    if (std::isinf(value)) { checked__fail(double(value), watched); }
    return value;
}

template <class T> void checked__filled(T const& items) {
    if (items.empty()) { checked__fail(0.0, false); }
}
