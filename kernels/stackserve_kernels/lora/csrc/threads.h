// torch's threads, and memory that each of them keeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace stackserve {

using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
using NumThreads = int32_t (*)(uint32_t*);

// torch's C functions; without them the caller computes alone.
extern ParallelFor torch_parallel_for;
extern NumThreads torch_num_threads;

inline int64_t num_threads() {
  uint32_t threads = 1;
  if (torch_parallel_for && torch_num_threads) torch_num_threads(&threads);
  return threads;
}

template <typename Work>
void on_all_threads(int64_t threads, Work& work) {
  if (threads < 2) return work();
  auto call = [](int64_t, int64_t, void* context) { (*static_cast<Work*>(context))(); };
  torch_parallel_for(0, threads, 1, call, &work);
}

// Numbers 0 to count - 1, each given to one thread. Whoever waits for all to be done waits for work
// that somebody has begun, never for a thread that has not come yet.
class Queue {
 public:
  explicit Queue(int64_t count) : count_(count) {}
  bool take(int64_t& number) { return (number = next_.fetch_add(1)) < count_; }
  void finish() { done_.fetch_add(1, std::memory_order_release); }
  void wait_until_all_are_finished() const {
    while (done_.load(std::memory_order_acquire) < count_) __builtin_ia32_pause();
  }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0}, done_{0};
};

// Floats that a thread keeps between calls; grows to the most that it has needed.
inline float* scratch(int64_t floats) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

}  // namespace stackserve
