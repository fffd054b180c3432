// What tch does not offer of PyTorch: the switches of determinism, libtorch_cuda loaded when it is needed, and layers on images whose
// pixels have their channels side by side.
//
// Each function returns null when done and otherwise a message, which stays until the thread calls again. No exception leaves.

#include <ATen/Context.h>
#include <ATen/TensorIterator.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/silu.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

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

// One loop for each width of vectors that a processor may have. Without fused operations (see build.rs) all give the same bits.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

// Adds each channel's sum and sum of squares over pixels.
FOR_EVERY_PROCESSOR
void add_moments(const float *x, std::int64_t pixels, std::int64_t channels, double *__restrict sums,
                 double *__restrict squares) {
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel, x += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const double value = x[c];
      sums[c] += value;
      squares[c] += value * value;
    }
  }
}

// Writes (x - centre) scale + shift, channel by channel.
FOR_EVERY_PROCESSOR
void scale_and_shift(const float *x, float *__restrict y, std::int64_t pixels, std::int64_t channels, const float *centre,
                     const float *scale, const float *shift) {
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel, x += channels, y += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      y[c] = (x[c] - centre[c]) * scale[c] + shift[c];
    }
  }
}

// Does `work` for 0 .. n on PyTorch's threads.
template <typename Work>
void on_all_threads(std::int64_t n, const Work &work) {
  // A function over the elements of a tensor: at::parallel_for itself would want an OpenMP of our own beside PyTorch's.
  at::Tensor indices = at::arange(n, at::kLong);
  auto elements = at::TensorIterator::nullary_op(indices);
  elements.for_each(
      [&work](char **data, const std::int64_t *strides, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
          work(*reinterpret_cast<const std::int64_t *>(data[0] + i * strides[0]));
        }
      },
      1);
}

using Pointwise = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, at::IntArrayRef,
                             at::IntArrayRef, at::IntArrayRef, std::int64_t, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using Linear = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, std::string_view,
                          c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using LinearWith = at::Tensor(const at::Tensor &, const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &,
                              std::string_view);
using Reorder = at::Tensor(const at::Tensor &, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, std::int64_t,
                           at::OptionalIntArrayRef);

} // namespace

extern "C" {

// Fails with the version of the libtorch that was loaded, if it is another than the one this was compiled with.
const char *edict_tch_check_version() {
  return guarded([] {
    const std::string config = at::show_config(), name = "TORCH_VERSION=";
    const auto start = config.find(name);
    std::string loaded = "unknown";
    if (start != std::string::npos) {
      loaded = config.substr(start + name.size());
      loaded.resize(std::min(loaded.size(), loaded.find_first_of(", \n")));
    }
    if (loaded != TORCH_VERSION) {
      throw std::runtime_error(loaded);
    }
  });
}

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

// Lays a convolution's weight out as oneDNN wants it for images of these four extents; `packed` becomes null where PyTorch was built without.
const char *edict_tch_pack_conv2d(const at::Tensor *weight, const std::int64_t *image, std::int64_t stride, std::int64_t padding,
                                  at::Tensor **packed) {
  return guarded([=] {
    *packed = nullptr;
    const auto reorder = c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_convolution_weight", ""});
    if (!at::hasMKLDNN() || !reorder.has_value()) {
      return;
    }
    const std::int64_t paddings[] = {padding, padding}, strides[] = {stride, stride}, dilations[] = {1, 1};
    // PyTorch offers this for weights in plain order only.
    const at::Tensor plain = weight->is_mkldnn() ? weight->to_dense() : *weight;
    *packed = new at::Tensor(
        reorder->typed<Reorder>().call(plain, paddings, strides, dilations, 1, at::IntArrayRef(image, 4)));
  });
}

// Convolves an image with a packed weight. Of the result each pixel's channels are side by side.
const char *edict_tch_conv2d(const at::Tensor *image, const at::Tensor *packed, const at::Tensor *bias, std::int64_t stride,
                             std::int64_t padding, at::Tensor **out) {
  return guarded([=] {
    static const auto convolve =
        c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_convolution_pointwise", "").typed<Pointwise>();
    const std::int64_t paddings[] = {padding, padding}, strides[] = {stride, stride}, dilations[] = {1, 1};
    const auto offset = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    *out = new at::Tensor(convolve.call(*image, *packed, offset, paddings, strides, dilations, 1, "none",
                                          c10::List<std::optional<at::Scalar>>(), ""));
  });
}

// A linear map to values and gates, and values times gelu(gates): both are applied to sums before these are written. `out` becomes null
// where PyTorch was built without oneDNN.
const char *edict_tch_linear_geglu(const at::Tensor *x, const at::Tensor *weight, const at::Tensor *bias, at::Tensor **out) {
  return guarded([=] {
    *out = nullptr;
    static const auto linear = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    static const auto linear_with = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", "binary"});
    if (!at::hasMKLDNN() || !linear.has_value() || !linear_with.has_value()) {
      return;
    }
    const auto half = [](const at::Tensor *rows, std::int64_t which) {
      const std::int64_t count = rows->size(0) / 2;
      return rows->narrow(0, which * count, count);
    };
    const auto offset = [&](std::int64_t which) {
      return bias == nullptr ? std::nullopt : std::optional<at::Tensor>(half(bias, which));
    };
    const at::Tensor gate = linear->typed<Linear>().call(*x, half(weight, 1), offset(1), "gelu",
                                                         c10::List<std::optional<at::Scalar>>(), "none");
    *out = new at::Tensor(linear_with->typed<LinearWith>().call(*x, gate, half(weight, 0), offset(0), "mul"));
  });
}

// Group norm of an f32 image [batch, channels, ..] whose pixels have their channels side by side, then SiLU if `silu`.
//
// PyTorch's own, for this layout, forms the variance as a difference of sums in f32, which leaves little of it far from zero. Sums
// are formed by blocks of pixels and added in their order, so that bits do not depend on the number of threads.
const char *edict_tch_group_norm(const at::Tensor *image, const at::Tensor *weight, const at::Tensor *bias, std::int64_t groups,
                                 double eps, int silu, at::Tensor **out) {
  return guarded([=] {
    const at::Tensor x = image->contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor scales = weight->contiguous(), shifts = bias->contiguous();
    at::Tensor y = at::empty_like(x);
    const std::int64_t batch = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3), width = channels / groups;
    const float *from = x.const_data_ptr<float>(), *w = scales.const_data_ptr<float>(), *b = shifts.const_data_ptr<float>();
    float *to = y.data_ptr<float>();
    // Of 256 KiB: what the second pass reads is then often still in a cache.
    const std::int64_t rows = std::max<std::int64_t>(1, 65536 / channels), blocks = (pixels + rows - 1) / rows;
    const auto each_block = [=](const auto &work) {
      on_all_threads(batch * blocks, [&](std::int64_t i) {
        const std::int64_t item = i / blocks, first = i % blocks * rows;
        work(i, item, (item * pixels + first) * channels, std::min(rows, pixels - first));
      });
    };
    std::vector<double> moments(static_cast<std::size_t>(batch * blocks * 2 * channels));
    each_block([&](std::int64_t i, std::int64_t, std::int64_t at, std::int64_t count) {
      double *sums = &moments[static_cast<std::size_t>(i * 2 * channels)];
      add_moments(from + at, count, channels, sums, sums + channels);
    });
    std::vector<float> affine(static_cast<std::size_t>(batch * 3 * channels));
    for (std::int64_t item = 0; item < batch; ++item) {
      float *centre = &affine[static_cast<std::size_t>(item * 3 * channels)], *scale = centre + channels,
            *shift = scale + channels;
      for (std::int64_t group = 0; group < groups; ++group) {
        double sum = 0, square = 0;
        for (std::int64_t i = item * blocks; i < (item + 1) * blocks; ++i) {
          const double *sums = &moments[static_cast<std::size_t>(i * 2 * channels + group * width)];
          for (std::int64_t c = 0; c < width; ++c) {
            sum += sums[c];
            square += sums[channels + c];
          }
        }
        const double terms = static_cast<double>(width * pixels), mean = sum / terms;
        const double variance = square / terms - mean * mean;
        // Not max(0, variance), which would turn what is not a number into one.
        const double deviation = std::sqrt((variance < 0 ? 0 : variance) + eps);
        for (std::int64_t c = group * width; c < (group + 1) * width; ++c) {
          centre[c] = static_cast<float>(mean);
          const double factor = w[c] / deviation;
          scale[c] = static_cast<float>(factor);
          shift[c] = static_cast<float>(b[c] + (centre[c] - mean) * factor);
        }
      }
    }
    each_block([&](std::int64_t, std::int64_t item, std::int64_t at, std::int64_t count) {
      const float *centre = &affine[static_cast<std::size_t>(item * 3 * channels)];
      scale_and_shift(from + at, to + at, count, channels, centre, centre + channels, centre + 2 * channels);
      if (silu != 0) {
        at::Tensor block = at::from_blob(to + at, {count * channels}, at::kFloat);
        at::silu_(block);
      }
    });
    *out = new at::Tensor(std::move(y));
  });
}

} // extern "C"
