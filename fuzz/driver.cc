// A small fuzzer for compilers without libFuzzer, with the options of it that are used here:
//
//   TARGET [-runs=N] [-max_total_time=SECONDS] [-seed=S] [-max_len=BYTES] [FILE or FOLDER ...]
//
// Every file is executed as it is; then mutations of them, N in all or until the time is over. It
// sees no coverage, so what it keeps are the given files. The input of an execution that ends the
// process is written to crash-TARGET in the working folder.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz/input.h"

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_set_death_callback(void (*callback)());
#endif

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes current;  // what the running execution was given
std::string crash_file;

void SaveCurrent() {
  std::FILE* file = std::fopen(crash_file.c_str(), "wb");
  if (file == nullptr) return;
  std::fwrite(current.data(), 1, current.size(), file);
  std::fclose(file);
  std::fprintf(stderr, "fuzz: the input was written to %s\n", crash_file.c_str());
}

void OnSignal(int number) {
  SaveCurrent();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::size_t Below(std::size_t limit) {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return static_cast<std::size_t>((z ^ (z >> 31)) % limit);
  }

 private:
  std::uint64_t state_;
};

std::uint8_t Byte(Random& random) {
  static constexpr std::uint8_t kEdges[] = {0, 1, 0x7F, 0x80, 0xFF};
  return random.Below(3) == 0 ? kEdges[random.Below(5)]
                              : static_cast<std::uint8_t>(random.Below(256));
}

// Where in the bytes; small inputs begin with what decides the most.
std::ptrdiff_t Place(Random& random, std::size_t size) {
  const std::size_t place = random.Below(size);
  return static_cast<std::ptrdiff_t>(random.Below(2) == 0 ? place : place % 24);
}

void Mutate(Random& random, const std::vector<Bytes>& corpus, std::size_t max_len, Bytes* bytes) {
  for (std::size_t left = 1 + random.Below(6); left > 0; --left) {
    if (bytes->empty()) bytes->push_back(Byte(random));
    const auto at = bytes->begin() + Place(random, bytes->size());
    const Bytes& other = corpus[random.Below(corpus.size())];
    switch (random.Below(7)) {
      case 0:
        *at = Byte(random);
        break;
      case 1:
        *at = static_cast<std::uint8_t>(*at ^ (1U << random.Below(8)));
        break;
      case 2:
        *at = static_cast<std::uint8_t>(*at + random.Below(9) - 4);
        break;
      case 3:
        bytes->insert(at, 1 + random.Below(8), Byte(random));
        break;
      case 4:
        bytes->erase(at, random.Below(4) == 0 ? bytes->end() : at + 1);
        break;
      case 5:
        if (other.empty()) break;
        bytes->insert(at, other.begin() + Place(random, other.size()), other.end());
        break;
      default: {
        Bytes piece(1 + random.Below(64));
        for (std::uint8_t& byte : piece) byte = Byte(random);
        bytes->insert(at, piece.begin(), piece.end());
      }
    }
    if (bytes->size() > max_len) bytes->resize(max_len);
  }
}

void Execute() {
  // A copy of its own, so that a sanitizer sees where it ends.
  const Bytes copy(current);
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

Bytes ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

struct Options {
  unsigned long long runs = 0;
  double seconds = 0;
  std::uint64_t seed = 1;
  std::size_t max_len = 4096;
  std::vector<Bytes> corpus;
};

bool Number(const char* argument, const char* name, unsigned long long* value) {
  const std::size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0) return false;
  *value = std::strtoull(argument + length, nullptr, 10);
  return true;
}

bool Parse(const char* argument, Options* options) {
  unsigned long long value = 0;
  if (Number(argument, "-runs=", &options->runs)) return true;
  if (Number(argument, "-max_total_time=", &value)) {
    options->seconds = static_cast<double>(value);
  } else if (Number(argument, "-seed=", &value)) {
    options->seed = value;
  } else if (Number(argument, "-max_len=", &value)) {
    options->max_len = static_cast<std::size_t>(value);
  } else if (std::filesystem::is_directory(argument)) {
    for (const auto& entry : std::filesystem::directory_iterator(argument)) {
      options->corpus.push_back(ReadFile(entry.path()));
    }
  } else if (std::filesystem::is_regular_file(argument)) {
    options->corpus.push_back(ReadFile(argument));
  } else {
    std::fprintf(stderr, "error: '%s' is no option, file or folder\n", argument);
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (!Parse(argv[i], &options)) return 2;
  }
  crash_file = "crash-" + std::filesystem::path(argv[0]).filename().string();
  std::signal(SIGABRT, OnSignal);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(SaveCurrent);
#else
  std::signal(SIGSEGV, OnSignal);
#endif
  unsigned long long done = 0;
  for (const Bytes& bytes : options.corpus) {
    current = bytes;
    Execute();
    ++done;
  }
  if (options.corpus.empty()) options.corpus.emplace_back();
  Random random(options.seed);
  const auto start = std::chrono::steady_clock::now();
  const auto over = [&] {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return options.seconds > 0 && elapsed.count() >= options.seconds;
  };
  while (options.runs > 0 ? done < options.runs && !over() : options.seconds > 0 && !over()) {
    current = options.corpus[random.Below(options.corpus.size())];
    Mutate(random, options.corpus, options.max_len, &current);
    Execute();
    ++done;
  }
  std::printf("stat::number_of_executed_units: %llu\n", done);
  return 0;
}
