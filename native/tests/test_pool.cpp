// The pool of threads, with more of them than the machine has cores too.
#include "check.h"
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

using cpm::Pool;

namespace {

struct Counting {
    Pool& pool;
    std::vector<long> counts = {};  // of each thread in this run; not atomic: a run's end and barriers order them
    long barriers = 0;
    std::atomic<long> wrong{0};
};

void count(void* context, int number) {
    Counting& c = *static_cast<Counting*>(context);
    for (long b = 0; b < c.barriers; b++) {
        c.counts[number]++;
        c.pool.barrier(number);
        long there = 0;
        for (const long n : c.counts) {
            there += n == b + 1;
            c.wrong += n != b + 1 && n != 0;
        }
        c.wrong += there != c.pool.active();
        c.pool.barrier(number);
    }
    c.counts[number]++;
}

void check_run(Counting& c) {
    c.counts.assign(c.pool.size(), 0);
    c.pool.run(count, &c);
    const long there = std::count(c.counts.begin(), c.counts.end(), c.barriers + 1);
    const long absent = std::count(c.counts.begin(), c.counts.end(), 0);
    CHECK(c.counts[0] == c.barriers + 1 && there == c.pool.active() && there + absent == c.pool.size(), "%ld of %d took part, %ld did not",
          there, c.pool.size(), absent);
    CHECK(c.wrong == 0, "%ld counts seen before they were there", c.wrong.load());
}

// Thread 1 seems to have no core for a while.
struct Absent {
    Pool& pool;
    bool away = true;
    long runs = 0;  // of thread 1
};

void absent(void* context, int number) {
    Absent& a = *static_cast<Absent*>(context);
    if (number == 1) {
        a.runs++;
        if (a.away) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    a.pool.barrier(number);
}

struct Dealing {
    Pool& pool;
    std::vector<std::atomic<int>> done;
    long queue = 0;
    bool together;  // no piece ends before all have begun
    std::atomic<long> begun{0}, wrong{0};
};

// Each piece once; what a thread is told to be its next one is its next one.
void deal(void* context, int) {
    Dealing& d = *static_cast<Dealing*>(context);
    const long pieces = (long)d.done.size();
    long told = pieces;
    cpm::share_ahead(d.queue, pieces, d.pool.size(), [&](long piece, long next) {
        d.wrong += told < pieces && told != piece;
        told = next;
        d.begun++;
        const auto since = std::chrono::steady_clock::now();
        while (d.together && d.begun < pieces) {
            std::this_thread::yield();
            if (std::chrono::steady_clock::now() - since > std::chrono::seconds(60)) {
                d.wrong++;
                break;
            }
        }
        d.done[piece]++;
    });
    d.wrong += told < pieces;
}

void test_share_ahead() {
    for (const int threads : {1, 2, 5}) {
        Pool pool(threads, -1);
        for (const long pieces : {0L, 1L, (long)threads, 2L * threads, 2L * threads + 1, 50L * threads}) {
            where = "sharing " + std::to_string(pieces) + " pieces among " + std::to_string(threads);
            Dealing d{pool, std::vector<std::atomic<int>>(pieces), 0, pieces <= threads};
            pool.run_all(deal, &d);
            for (const std::atomic<int>& n : d.done) CHECK(n == 1, "done %d times", n.load());
            CHECK(d.wrong == 0, "%ld wrong", d.wrong.load());
        }
    }
}

// Threads that others wait for are left out for a while, and tried again.
void test_threads_without_a_core() {
    for (const int threads : {2, 3, 8}) {
        where = "pool of " + std::to_string(threads) + ", one without a core";
        Pool pool(threads, -1);
        Absent a{pool};
        const auto takes_part = [&] {
            const long before = a.runs;
            pool.run(absent, &a);
            return a.runs > before;
        };
        long waits = 0;
        while (takes_part() && waits < 100) waits++;
        CHECK(0 < waits && waits < 100, "waited for it %ld times", waits);
        a.away = false;
        const auto began = std::chrono::steady_clock::now();
        bool back = false;
        while (!back && std::chrono::steady_clock::now() - began < std::chrono::seconds(60)) back = takes_part();
        CHECK(back);
        a.away = true;
        for (int run = 0; run < 5; run++) {
            const long before = a.runs;
            pool.run_all(absent, &a);
            CHECK(a.runs == before + 1 && pool.active() == threads);
        }
        Counting c{pool};
        c.barriers = 50;
        check_run(c);
    }
}

}  // namespace

void test_pool() {
    test_share_ahead();
    test_threads_without_a_core();
    for (int threads = 1; threads <= 8; threads++) {
        where = "pool of " + std::to_string(threads);
        // pinned too: beyond the last CPU there is none to be pinned to
        for (const int first_cpu : {-1, 0}) {
            Pool pool(threads, first_cpu);
            CHECK(pool.size() == threads);
            Counting c{pool};
            for (int run = 0; run < (threads <= 2 ? 1000 : 100); run++) check_run(c);  // threads without a core wait long
            c.barriers = 50;
            for (int run = 0; run < 5; run++) check_run(c);
            // threads that fell asleep
            c.barriers = 2;
            for (int run = 0; run < 3; run++) {
                std::this_thread::sleep_for(std::chrono::milliseconds(30));
                check_run(c);
            }
        }
        for (int i = 0; i < 30; i++) Pool gone(threads, -1);
        for (int i = 0; i < 30; i++) {
            Pool used(threads, -1);
            Counting c{used};
            check_run(c);
        }
        // asleep when it is to end
        auto idle = std::make_unique<Pool>(threads, -1);
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        idle.reset();
    }
    where = "pool of none";
    Pool least(0, -1);
    CHECK(least.size() == 1);
}
