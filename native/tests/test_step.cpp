// Whole steps through the C interface: threads, ranks, a failing all-reduce, memory. tests/networks/test_native_model.py compares
// their numbers with torch.
#include "cpm_native.h"
#include "check.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace {

constexpr int HIDDEN = 40, VOCABULARY = 70, POSITIONS = 50;

struct Network {
    cpm_sizes sizes;
    cpm_model* model;

    // heads of 20: no size is a multiple of a tile. `variant`: a network that differs from CPM-1 in everything
    Network(const char* kernels, int format, int kv_format, int threads, int ranks = 1, int variant = 0)
        : sizes{2, HIDDEN, 2, 20, 4 * HIDDEN, VOCABULARY, 0, POSITIONS, ranks, format, kv_format, threads, threads % 2 ? -1 : 0, variant ? 0.1f : 1e-5f, variant, variant, variant},
          model(cpm_create(&sizes, kernels)) {
        CHECK(model != nullptr);
        Random random(6);
        for (int layer = 0; layer < 2; layer++)
            for (int tensor = CPM_WORDS; tensor <= CPM_DOWN_B; tensor++) {
                if ((layer && tensor < CPM_NORM1_W) || (tensor == CPM_HEAD && !variant)) continue;
                long rows = 1, columns = HIDDEN;
                switch (tensor) {
                    case CPM_WORDS: case CPM_HEAD: rows = VOCABULARY; break;
                    case CPM_POSITIONS: rows = POSITIONS; break;
                    case CPM_QKV_W: rows = 3 * HIDDEN; break;
                    case CPM_QKV_B: columns = 3 * HIDDEN; break;
                    case CPM_DENSE_W: rows = HIDDEN; break;
                    case CPM_UP_W: rows = 4 * HIDDEN; break;
                    case CPM_UP_B: columns = 4 * HIDDEN; break;
                    case CPM_DOWN_W: rows = HIDDEN, columns = 4 * HIDDEN; break;
                }
                const std::vector<float> x = random.normals(rows * columns, 0.3f);
                CHECK(cpm_pack(model, tensor, layer, x.data(), CPM_FROM_F32, 0, rows, columns, columns) == CPM_OK);
            }
        CHECK(cpm_pack(model, CPM_WORDS, 0, nullptr, CPM_FROM_F32, 0, VOCABULARY, HIDDEN + 1, HIDDEN) == CPM_MISMATCH);
        CHECK(cpm_pack(model, CPM_WORDS, 0, nullptr, CPM_FROM_F32, 1, VOCABULARY, HIDDEN, HIDDEN) == CPM_MISMATCH);
        CHECK(cpm_pack(model, CPM_WORDS, 0, nullptr, CPM_FROM_F32, -1, 1, HIDDEN, HIDDEN) == CPM_MISMATCH);
        if (!variant) CHECK(cpm_pack(model, CPM_HEAD, 0, nullptr, CPM_FROM_F32, 0, VOCABULARY, HIDDEN, HIDDEN) == CPM_MISMATCH);
    }
    Network(const Network&) = delete;
    ~Network() { cpm_destroy(model); }
};

std::vector<int32_t> ids() {
    Random random(2);
    std::vector<int32_t> v(POSITIONS);
    for (int32_t& id : v) id = (int32_t)random.below(VOCABULARY);
    return v;
}

// Hidden rows and logits of a few steps: a prefill of two sequences, a decode step, segments without a slot.
std::vector<float> some_steps(const Network& n, cpm_all_reduce reduce = nullptr) {
    cpm_cache* cache = cpm_cache_create(n.model, 2);
    CHECK(cpm_cache_bytes(cache) > 0);
    std::vector<int32_t> tokens = ids(), reversed(tokens.rbegin(), tokens.rend());
    tokens.insert(tokens.end(), reversed.begin(), reversed.end());
    std::vector<float> all;
    const std::vector<std::vector<cpm_segment>> steps = {
        {{20, 0, 1, 1}, {POSITIONS, 0, 0, 3}}, {{1, 20, 1, 1}}, {{10, 0, -1, 10}, {7, 21, 1, 0}, {9, 0, -1, 0}}, {{22, 28, 1, 1}}};
    for (const auto& segments : steps) {
        long wanted = 0;
        for (const cpm_segment& s : segments) wanted += s.wanted;
        Buffer<float> hidden(wanted * HIDDEN), logits(wanted * VOCABULARY);
        CHECK(cpm_step(n.model, cache, segments.data(), (int)segments.size(), tokens.data(), reduce, hidden.data()) == CPM_OK);
        CHECK(cpm_head(n.model, hidden.data(), wanted, logits.data()) == CPM_OK);
        all.insert(all.end(), hidden.data(), hidden.data() + hidden.size());
        all.insert(all.end(), logits.data(), logits.data() + logits.size());
    }
    for (const float x : all) CHECK(std::isfinite(x));
    cpm_cache_destroy(cache);
    return all;
}

int calls, fail_at;

// An all-reduce with a second rank of zeros.
int add_nothing(float* values, int64_t count) {
    for (int64_t i = 0; i < count; i++) values[i] += 0.0f;
    return ++calls == fail_at ? -1 : 0;
}

// A slot that was copied goes on as the slot that it was copied from.
void test_copied_slots(const Network& n) {
    cpm_cache* cache = cpm_cache_create(n.model, 2);
    const std::vector<int32_t> tokens = ids();
    for (const int32_t length : {1, 20, POSITIONS - 1}) {
        Buffer<float> unused(HIDDEN), from(HIDDEN), to(HIDDEN);
        const cpm_segment whole = {length, 0, 0, 0}, source = {1, length, 0, 1}, target = {1, length, 1, 1};
        CHECK(cpm_step(n.model, cache, &whole, 1, tokens.data(), nullptr, unused.data()) == CPM_OK);
        cpm_cache_copy(n.model, cache, 0, 1, length);
        CHECK(cpm_step(n.model, cache, &source, 1, tokens.data() + length, nullptr, from.data()) == CPM_OK);
        CHECK(cpm_step(n.model, cache, &target, 1, tokens.data() + length, nullptr, to.data()) == CPM_OK);
        CHECK(std::memcmp(from.data(), to.data(), HIDDEN * sizeof(float)) == 0, "after %d tokens", length);
    }
    cpm_cache_destroy(cache);
}

// The results stay the same while threads are excluded and included again.
void test_steps_on_busy_cores() {
    const char* kernels = cpm::supported_ops()[0]->name;
    where = std::string("step ") + kernels + " on busy cores";
    const std::vector<float> want = some_steps(Network(kernels, CPM_F32, CPM_F32, 1));
    std::atomic<bool> busy{true};
    std::vector<std::thread> others;
    for (unsigned n = 0; n < 2 * std::thread::hardware_concurrency(); n++)
        others.emplace_back([&busy] {
            while (busy) {}
        });
    for (const int threads : {2, 3}) {
        const Network network(kernels, CPM_F32, CPM_F32, threads);
        for (int i = 0; i < 20; i++) CHECK(some_steps(network) == want, "%d threads", threads);
    }
    busy = false;
    for (std::thread& other : others) other.join();
}

}  // namespace

void test_step() {
    test_steps_on_busy_cores();
    CHECK(cpm_abi() == CPM_ABI);
    const cpm_sizes tiny = {1, 4, 1, 4, 16, 8, 0, 8, 1, CPM_F32, CPM_F32, 1, -1, 1e-5f, 0, 0, 0};
    CHECK(cpm_create(&tiny, "no such kernels") == nullptr);
    cpm_sizes many_threads = tiny;
    many_threads.threads = CPM_MAX_THREADS + 1;
    CHECK(cpm_create(&many_threads, nullptr) == nullptr);
    many_threads.threads = INT32_MAX;
    CHECK(cpm_create(&many_threads, nullptr) == nullptr);
    std::string all;
    for (const cpm::Ops* ops : cpm::supported_ops()) {
        all += (all.empty() ? "" : " ") + std::string(ops->name);
        const int formats[][2] = {{CPM_F32, CPM_F32}, {CPM_BF16, CPM_BF16}, {CPM_I8, CPM_BF16},
                                  {CPM_F32, CPM_I8},  {CPM_BF16, CPM_I8},   {CPM_I8, CPM_I8}};  // of weights, and of keys and values
        for (const auto& [format, kv] : formats) {
            where = std::string("step ") + ops->name + " format " + std::to_string(format) + " " + std::to_string(kv);
            const Network one(ops->name, format, kv, 1);
            CHECK(std::strcmp(cpm_model_kernels(one.model), ops->name) == 0);
            const std::vector<float> want = some_steps(one);
            CHECK(some_steps(one) == want, "repeated");
            test_copied_slots(one);
            for (const int threads : {2, 3, 5}) CHECK(some_steps(Network(ops->name, format, kv, threads)) == want, "%d threads", threads);

            const std::vector<float> other = some_steps(Network(ops->name, format, kv, 1, 1, 1));
            CHECK(other != want, "the variant computes the same");
            CHECK(some_steps(Network(ops->name, format, kv, 3, 1, 1)) == other, "the variant on 3 threads");

            const Network two(ops->name, format, kv, 2, 2);
            calls = fail_at = 0;
            const std::vector<float> reduced = some_steps(two, add_nothing);
            CHECK(calls == 4 * (1 + 2 * 2), "%d all-reduces", calls);
            float largest = 0, difference = 0;
            for (size_t i = 0; i < want.size(); i++) {
                largest = std::max(largest, std::fabs(want[i]));
                difference = std::max(difference, std::fabs(want[i] - reduced[i]));
            }
            // a bias is added in another order, so a number may round differently in conversion
            CHECK(difference <= largest * (format == CPM_F32 && kv == CPM_F32 ? 1e-5f : 0.03f), "differs by %g of %g", difference,
                  largest);
            const std::vector<int32_t> tokens = ids();
            const cpm_segment segment = {9, 0, -1, 1};
            Buffer<float> hidden(HIDDEN);
            for (fail_at = 1; fail_at <= 5; fail_at++) {
                calls = 0;
                CHECK(cpm_step(two.model, nullptr, &segment, 1, tokens.data(), add_nothing, hidden.data()) == CPM_ABORTED);
                CHECK(calls == fail_at, "%d calls, the failing one was %d", calls, fail_at);
            }
            fail_at = 0;
            CHECK(some_steps(two, add_nothing) == reduced, "after aborted steps");

            double seconds[5];
            cpm_profile(two.model, seconds);
            for (const double s : seconds) CHECK(s > 0, "%g seconds", s);
        }
    }
    where = "names";
    CHECK(all == cpm_kernels(), "%s", cpm_kernels());
}
