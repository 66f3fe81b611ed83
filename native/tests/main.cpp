// cpm_tests [name ...]: run the tests of these names, or all. Exit status 1 if a check failed or no test ran.
#include "check.h"

int main(int count, char** names) {
    const struct {
        const char* name;
        void (*run)();
    } tests[] = {{"pack", test_pack},           {"rows", test_rows}, {"product", test_product},
                 {"attention", test_attention}, {"step", test_step}, {"choice", test_choice},
                 {"thread_pool", test_thread_pool}};
    int ran = 0;
    for (const auto& test : tests) {
        bool wanted = count == 1;
        for (int i = 1; i < count; i++) wanted |= std::strcmp(names[i], test.name) == 0;
        if (!wanted) continue;
        where = test.name;
        test.run();
        ran++;
    }
    std::string kernels;
    for (const cpm::Ops* ops : cpm::supported_ops()) kernels += std::string(" ") + ops->name;
    std::printf("%d tests on%s: %d failures\n", ran, kernels.c_str(), failures);
    return failures > 0 || ran == 0;
}
