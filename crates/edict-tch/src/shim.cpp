// What tch does not offer of PyTorch: the switches of determinism, and libtorch_cuda loaded when it is needed.
//
// Each function returns null when done and otherwise a message, which stays until the thread calls again. No exception leaves.

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <exception>
#include <stdexcept>
#include <string>

#ifndef _WIN32
#include <dlfcn.h>
#include <cstdlib>
#endif

namespace {

thread_local std::string message;

template <typename Work>
const char *guarded(Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::exception &error) {
    try {
      message = error.what();
      return message.c_str();
    } catch (...) {
      return "out of memory";
    }
  } catch (...) {
    return "an unknown exception";
  }
}

#ifndef _WIN32
// Read by cuBLAS when it starts, and required by PyTorch for deterministic algorithms. Set before main, while there is one
// thread only; what the user has set stays.
__attribute__((constructor)) void reserve_cublas_workspace() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
}
#endif

} // namespace

extern "C" {

// Settings of the whole process. `exact` makes every operation answer a question in one way, in its own precision; otherwise
// PyTorch may pick what is fastest today.
const char *edict_tch_set_exact(int exact) {
  return guarded([exact] {
    auto &context = at::globalContext();
    const bool on = exact != 0;
    context.setDeterministicAlgorithms(on, /*warn_only=*/false);
    // PyTorch would else fill all new memory with NaN in deterministic mode, to show who reads before writing.
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(on);
    context.setBenchmarkCuDNN(!on);
    context.setDeterministicMkldnn(on);
    context.setAllowTF32CuDNN(!on);
    context.setAllowTF32CuBLAS(!on);
    context.setAllowFP16ReductionCuBLAS(!on);
    context.setAllowBF16ReductionCuBLAS(!on);
    context.setAllowFP16AccumulationCuBLAS(false);
  });
}

// Loads the CUDA half of libtorch, which nothing else does: linkers leave out libraries of which no symbol is used. PyTorch finds
// out once and for all whether CUDA is there, so this comes before anything asks.
const char *edict_tch_load_cuda() {
#ifdef _WIN32
  return nullptr;
#else
  return guarded([] {
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      const char *reason = dlerror();
      throw std::runtime_error(reason == nullptr ? "libtorch_cuda.so cannot be loaded" : reason);
    }
  });
#endif
}

// Counts the GPUs that PyTorch can use.
const char *edict_tch_count_gpus(int *count) {
  return guarded([count] { *count = static_cast<int>(at::detail::getCUDAHooks().getNumGPUs()); });
}

} // extern "C"
