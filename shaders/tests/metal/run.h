// Runs generated kernels: the threads of a threadgroup are fibers, which meet at
// barriers and in subgroup operations.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>
#include <metal_stdlib>

struct Thread {
  metal::uint3 group, groups;
  uint index, lane, subgroup, subgroup_size, subgroups;
};

// Becomes a reference to whatever type a parameter has.
struct Memory {
  void *at;
  template <class T> operator T &() const { return *static_cast<T *>(at); }
};

struct Call {
  Memory buffers[16];
  Memory local[16];
};
typedef void (*Kernel)(const Call &, const Thread &);

[[noreturn]] inline void fail(const std::string &why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

// `bytes` zero-padded to a whole number of 16, before a page that must not be touched.
inline char *guarded(size_t bytes) {
  size_t page = size_t(sysconf(_SC_PAGESIZE)), size = (bytes + 15) / 16 * 16;
  size_t whole = (size + page - 1) / page * page;
  char *at = static_cast<char *>(mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (at == MAP_FAILED || mprotect(at + whole, page, PROT_NONE)) fail("no memory");
  return at + whole - size;
}

// One threadgroup at a time.
struct Group {
  struct Fiber {
    ucontext_t context;
    Thread place;
    bool done;
    Meet kind;
    uint64_t value, result;
    uint argument;
  };
  static constexpr size_t STACK = 256 << 10;
  std::vector<Fiber> fibers;
  std::vector<char> stacks;
  ucontext_t scheduler;
  size_t running = 0;
  Kernel function = nullptr;
  const Call *call = nullptr;

  static Group &the() {
    static Group group;
    return group;
  }

  static void enter() {
    Group &g = the();
    g.function(*g.call, g.fibers[g.running].place);
    g.fibers[g.running].done = true;
    swapcontext(&g.fibers[g.running].context, &g.scheduler);
  }

  void run(Kernel k, const Call &c, uint threads, uint subgroup, metal::uint3 group, metal::uint3 groups) {
    function = k;
    call = &c;
    fibers.resize(threads);
    stacks.resize(threads * STACK);
    for (uint i = 0; i < threads; i++) {
      Fiber &f = fibers[i];
      f.place = Thread{group, groups, i, i % subgroup, i / subgroup, subgroup, threads / subgroup};
      f.done = false;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = stacks.data() + i * STACK;
      f.context.uc_stack.ss_size = STACK;
      f.context.uc_link = nullptr;
      makecontext(&f.context, enter, 0);
    }
    while (true) {
      size_t left = 0;
      for (running = 0; running < fibers.size(); running++) {
        swapcontext(&scheduler, &fibers[running].context);
        left += !fibers[running].done;
      }
      if (left == 0) return;
      if (left < fibers.size()) fail("some threads ended where others wait");
      answer(subgroup);
    }
  }

  // All wait: at the same thing, or the kernel's flow is not uniform.
  void answer(uint subgroup) {
    for (Fiber &f : fibers) {
      if (f.kind != fibers[0].kind || f.argument != fibers[0].argument) fail("threads wait at different things");
    }
    for (size_t first = 0; first < fibers.size(); first += subgroup) {
      float sum = 0;
      for (size_t i = first; i < first + subgroup; i++) sum += metal::of_bits<float>(fibers[i].value);
      for (size_t i = first; i < first + subgroup; i++) {
        Fiber &f = fibers[i];
        // Beyond the subgroup, a shuffle gives anything: here zero.
        size_t other = (i - first) ^ f.argument;
        f.result = f.kind == Meet::sum ? metal::bits_of(sum) : other < subgroup ? fibers[first + other].value : 0;
      }
    }
  }
};

uint64_t meet(Meet kind, uint64_t value, uint argument) {
  Group &g = Group::the();
  Group::Fiber &f = g.fibers[g.running];
  f.kind = kind;
  f.value = value;
  f.argument = argument;
  swapcontext(&f.context, &g.scheduler);
  return f.result;
}

// Standard input: words `threads subgroup x y z`, then for each of 16 buffers
// its length and bytes, then the lengths of 16 pieces of threadgroup memory.
// Standard output: the bytes of all buffers afterwards.
inline int serve(Kernel function) {
  auto read = [](void *to, size_t bytes) {
    if (bytes && std::fread(to, 1, bytes, stdin) != bytes) fail("a job ends early");
  };
  uint head[5];
  read(head, sizeof head);
  Call call{};
  uint lengths[16];
  for (int i = 0; i < 16; i++) {
    read(&lengths[i], 4);
    if (lengths[i]) {
      call.buffers[i].at = guarded(lengths[i]);
      read(call.buffers[i].at, lengths[i]);
    }
  }
  uint local[16];
  read(local, sizeof local);
  for (int i = 0; i < 16; i++) {
    if (local[i]) call.local[i].at = guarded(local[i]);
  }
  metal::uint3 groups(head[2], head[3], head[4]);
  for (uint z = 0; z < groups.z; z++)
    for (uint y = 0; y < groups.y; y++)
      for (uint x = 0; x < groups.x; x++) {
        // As undefined as on a device.
        for (int i = 0; i < 16; i++) if (local[i]) std::memset(call.local[i].at, 0xff, local[i]);
        Group::the().run(function, call, head[0], head[1], metal::uint3(x, y, z), groups);
      }
  for (int i = 0; i < 16; i++) std::fwrite(call.buffers[i].at, 1, lengths[i], stdout);
  return 0;
}
