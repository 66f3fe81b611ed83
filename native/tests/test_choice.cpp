// Draws from logits, against the rules written out on sorted pairs.
#include "check.h"

#include <algorithm>
#include <limits>

#include "choice.h"
#include "model.h"

using namespace cpm;

namespace {

struct Case {
    std::vector<float> logits, bias;
    std::vector<int64_t> allowed, banned;
    cpm_pick pick;
};

// What the rules of cpm_pick give: a stable sort by logit, equal logits kept together by top-k and in the order of their ids by top-p.
std::vector<int64_t> by_sorting(const Case& c, const std::vector<double>& numbers) {
    std::vector<std::pair<float, int64_t>> all;
    const long n = c.allowed.empty() ? (long)c.logits.size() : (long)c.allowed.size();
    for (long i = 0; i < n; i++) {
        const int64_t id = c.allowed.empty() ? i : c.allowed[i];
        float value = c.logits[id];
        if (!c.bias.empty()) value += c.bias[i];
        if (std::find(c.banned.begin(), c.banned.end(), id) != c.banned.end()) value = -INFINITY;
        all.emplace_back(value, id);
    }
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    const float last = all[c.pick.top_k - 1].first;
    while (all.back().first < last) all.pop_back();
    std::vector<std::pair<int64_t, double>> weights;
    double whole = 0, held = 0;
    for (const auto& [value, id] : all) {
        weights.emplace_back(id, std::exp(((double)value - all[0].first) / c.pick.temperature));
        whole += weights.back().second;
    }
    if (c.pick.top_p > 0 && c.pick.top_p < 1) {
        size_t kept = 0;
        while (kept < weights.size() && (kept == 0 || held < c.pick.top_p * whole)) held += weights[kept++].second;
        weights.resize(kept);
    }
    weights.erase(std::remove_if(weights.begin(), weights.end(), [&](const auto& w) { return w.second < c.pick.min_p; }), weights.end());
    std::sort(weights.begin(), weights.end());
    double total = 0;
    for (const auto& w : weights) total += w.second;
    std::vector<int64_t> tokens;
    for (const double number : numbers) {
        double end = 0;
        size_t at = 0;
        while (at + 1 < weights.size() && (end += weights[at].second) <= number * total) at++;
        tokens.push_back(weights[at].first);
    }
    return tokens;
}

Case random_case(uint32_t seed) {
    Random random(seed);
    Case c;
    const long vocabulary = 60 + random.below(3000);
    c.logits = random.normals(vocabulary, 3);
    if (random.below(3) == 0)
        for (float& x : c.logits) x = std::round(x);  // many equal ones
    if (random.below(3) > 0) {
        for (long id = 0; id < vocabulary; id++)
            if (random.below(2)) c.allowed.push_back(id);
        while (c.allowed.size() < 3) c.allowed.push_back(vocabulary - 3 + (long)c.allowed.size());
        if (random.below(2)) c.bias = random.normals((long)c.allowed.size());
    }
    for (long n = random.below(4); n > 0; n--) c.banned.push_back(random.below(vocabulary));
    const long count = c.allowed.empty() ? vocabulary : (long)c.allowed.size();
    const double p[] = {0, 0.3, 0.95, 1};
    c.pick = {};
    c.pick.top_k = (int32_t)(1 + random.below(std::min(count - 1, 90L)));
    c.pick.temperature = 0.3 + random.below(10) * 0.2;
    c.pick.top_p = p[random.below(4)];
    c.pick.min_p = random.below(2) ? 0 : 0.05;
    return c;
}

void point(Case& c) {
    c.pick.count = (int64_t)c.allowed.size();
    c.pick.allowed = c.allowed.empty() ? nullptr : c.allowed.data();
    c.pick.bias = c.bias.empty() ? nullptr : c.bias.data();
    c.pick.banned_count = (int64_t)c.banned.size();
    c.pick.banned = c.banned.data();
}

}  // namespace

void test_choice() {
    const cpm_sizes sizes = {1, 32, 1, 32, 32, 64, 0, 32, 1, CPM_F32, CPM_F32, 3, -1, 1e-5f, CPM_GELU_TANH, 0, 0};
    Model model(sizes, *supported_ops()[0]);
    const std::vector<double> numbers = {0.0, 1e-9, 0.123, 0.5, 0.77, 0.999, std::nextafter(1.0, 0.0)};
    for (uint32_t seed = 0; seed < 300; seed++) {
        where = "choice, seed " + std::to_string(seed);
        Case c = random_case(seed);
        point(c);
        std::vector<int64_t> tokens(numbers.size(), -7);
        c.pick.draws = (int32_t)numbers.size();
        c.pick.numbers = numbers.data();
        c.pick.tokens = tokens.data();
        choose(model, c.logits.data(), (long)c.logits.size(), &c.pick, 1);
        const std::vector<int64_t> want = by_sorting(c, numbers);
        for (size_t d = 0; d < numbers.size(); d++)
            CHECK(tokens[d] == want[d], "draw %zu: %ld, not %ld", d, (long)tokens[d], (long)want[d]);
    }
    where = "choice, several rows at once";
    const long vocabulary = 500, rows = 9;
    Random random(1);
    const std::vector<float> logits = random.normals(rows * vocabulary);
    std::vector<cpm_pick> picks(rows);
    std::vector<int64_t> together(rows), alone(1);
    const double number = 0.4;
    for (long r = 0; r < rows; r++) {
        picks[r] = {};
        picks[r].row = (int32_t)r;
        picks[r].top_k = 20;
        picks[r].temperature = 1;
        picks[r].draws = 1;
        picks[r].numbers = &number;
        picks[r].tokens = &together[r];
    }
    choose(model, logits.data(), vocabulary, picks.data(), rows);
    for (long r = 0; r < rows; r++) {
        picks[r].tokens = alone.data();
        choose(model, logits.data(), vocabulary, &picks[r], 1);
        CHECK(alone[0] == together[r], "row %ld: %ld alone, %ld together", r, (long)alone[0], (long)together[r]);
    }
    for (const float value : {INFINITY, -INFINITY}) {
        where = "choice, logits that are not finite";
        const std::vector<float> all(vocabulary, value);
        picks[0].tokens = alone.data();
        choose(model, all.data(), vocabulary, picks.data(), 1);
        CHECK(alone[0] == -1, "drew %ld of %g", (long)alone[0], value);
    }
}
