#include "choice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <new>

namespace cpm {
namespace {

constexpr float LEAST = -std::numeric_limits<float>::infinity();
constexpr long SETS = 4;  // for each token that top-k keeps, how many sets of logits are looked through first

// The memory of a thread: logits, and later in the same choice the few that top-k keeps, with their places.
struct Scratch {
    std::vector<float> logits, bounds;
    std::vector<long> places;
    std::vector<double> weights, ordered;
};

// The logits that a pick is among, in `values`; returns their number.
long gather(const float* logits, long vocabulary, const cpm_pick& pick, float* values) {
    const long n = pick.allowed ? pick.count : vocabulary;
    if (pick.allowed)
        for (long i = 0; i < n; i++) values[i] = logits[pick.allowed[i]];
    else
        std::copy_n(logits, n, values);
    if (pick.bias)
        for (long i = 0; i < n; i++) values[i] += pick.bias[i];
    for (long b = 0; b < pick.banned_count; b++) {
        const int64_t id = pick.banned[b];
        const long at = pick.allowed ? std::lower_bound(pick.allowed, pick.allowed + n, id) - pick.allowed : id;
        if (at < n && (!pick.allowed || pick.allowed[at] == id)) values[at] = LEAST;
    }
    return n;
}

float nth_greatest(std::vector<float>& values, long k) {
    std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<float>());
    return values[k - 1];
}

// The places of the values that are not below the k-th greatest, ascending. Of many values, that is at least the k-th greatest of the
// greatest of disjoint sets, which is found more quickly.
void keep_best(const float* values, long n, long k, Scratch& s) {
    const long sets = SETS * k, rows = n / sets;
    float bound = LEAST;
    if (rows > 1) {
        s.bounds.assign(values, values + sets);
        for (long r = 1; r < rows; r++) {
            const float* row = values + r * sets;
            float* greatest = s.bounds.data();
            for (long i = 0; i < sets; i++) greatest[i] = row[i] > greatest[i] ? row[i] : greatest[i];
        }
        bound = nth_greatest(s.bounds, k);
    }
    s.places.clear();
    s.bounds.clear();
    for (long i = 0; i < n; i++) {
        if (values[i] < bound) continue;
        s.places.push_back(i);
        s.bounds.push_back(values[i]);
    }
    bound = nth_greatest(s.bounds, k);
    s.places.erase(std::remove_if(s.places.begin(), s.places.end(), [&](long at) { return values[at] < bound; }), s.places.end());
}

// Set all weights to zero but the fewest, heaviest first, of equal ones the first, that hold `top_p` of the whole.
void keep_heaviest(double top_p, Scratch& s) {
    double whole = 0, held = 0;
    for (const double weight : s.weights) whole += weight;
    s.ordered = s.weights;
    std::sort(s.ordered.begin(), s.ordered.end(), std::greater<double>());
    size_t kept = 0;
    do held += s.ordered[kept++];
    while (held < top_p * whole && kept < s.ordered.size());
    const double least = s.ordered[kept - 1];
    for (double& weight : s.weights) kept -= weight > least;
    for (double& weight : s.weights) {  // `kept` is now the number of those equal to the least that stay
        if (weight < least || (weight == least && kept == 0)) weight = 0;
        else if (weight == least) kept--;
    }
}

// The place at `number` in the cumulative distribution: the first whose end is above it; if rounding leaves none, the last with a weight.
size_t at_number(double number, const std::vector<double>& ends) {
    const size_t above = std::upper_bound(ends.begin(), ends.end(), number * ends.back()) - ends.begin();
    return std::min<size_t>(above, std::lower_bound(ends.begin(), ends.end(), ends.back()) - ends.begin());
}

void draw(const float* logits, long vocabulary, const cpm_pick& pick, Scratch& s) {
    s.logits.resize(std::max<size_t>(s.logits.size(), vocabulary));
    const long n = gather(logits, vocabulary, pick, s.logits.data());
    keep_best(s.logits.data(), n, pick.top_k, s);
    float greatest = LEAST;
    for (const long at : s.places) greatest = std::max(greatest, s.logits[at]);
    if (!std::isfinite(greatest)) {
        std::fill_n(pick.tokens, pick.draws, -1);
        return;
    }
    s.weights.clear();
    for (const long at : s.places) s.weights.push_back(std::exp(((double)s.logits[at] - greatest) / pick.temperature));
    if (pick.top_p > 0 && pick.top_p < 1) keep_heaviest(pick.top_p, s);
    double end = 0;
    for (double& weight : s.weights) weight = end += weight < pick.min_p ? 0 : weight;  // the greatest weighs 1
    for (int d = 0; d < pick.draws; d++) {
        const long at = s.places[at_number(pick.numbers[d], s.weights)];
        pick.tokens[d] = pick.allowed ? pick.allowed[at] : at;
    }
}

}  // namespace

void choose(Model& m, const float* logits, long vocabulary, const cpm_pick* picks, int count) {
    share(m.pool, count, [&](long i) {
        thread_local Scratch scratch;
        try {
            draw(logits + picks[i].row * vocabulary, vocabulary, picks[i], scratch);
        } catch (const std::bad_alloc&) {
            std::fill_n(picks[i].tokens, picks[i].draws, -1);
        }
    });
}

void log_sums(Model& m, const float* logits, long rows, long vocabulary, double* sums) {
    share(m.pool, rows, [&](long r) { sums[r] = m.ops.log_sum(logits + r * vocabulary, vocabulary); });
}

}  // namespace cpm
