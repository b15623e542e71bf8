// exceptions: throws through frames with something to destroy, and catches at different heights, so that libgcc's own
// unwinder, landing pads and cold parts of functions are on the stacks; sorts and maps of strings between.
#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../c/work.h"

namespace {

volatile uint64_t sink;

struct Guard {
	std::string name;
	explicit Guard(int depth) : name(std::to_string(depth) + " is long enough not to fit into the object") {}
	~Guard() { sink = sink + name.size(); }
};

struct Failure : std::runtime_error {
	int height;
	explicit Failure(int h) : std::runtime_error("failure"), height(h) {}
};

struct Visitor {
	virtual ~Visitor() = default;
	virtual uint64_t visit(int depth, int height) = 0;
};

struct Thrower final : Visitor {
	__attribute__((noinline)) uint64_t visit(int depth, int height) override
	{
		Guard guard(depth);
		if (depth == 0)
			throw Failure(height);
		try {
			return visit(depth - 1, height) + guard.name.size();
		} catch (const Failure &f) {
			if (f.height != depth)
				throw;
			return scramble(guard.name.size(), 500);
		}
	}
};

__attribute__((noinline)) uint64_t strings(uint64_t seed)
{
	std::vector<std::string> words;
	std::map<std::string, uint64_t> counts;
	for (int i = 0; i < 200; i++)
		words.push_back(std::to_string(seed = scramble(seed + 1, 1)));
	std::sort(words.begin(), words.end(), [](const std::string &a, const std::string &b) { return a.compare(b) < 0; });
	for (const auto &w : words)
		counts[w.substr(0, 3)]++;
	return counts.size();
}

} // namespace

int main()
{
	say("exceptions", 1);
	std::unique_ptr<Visitor> visitor = std::make_unique<Thrower>();
	for (int i = 0;; i++) {
		sink = sink + visitor->visit(20, 1 + i % 20);
		sink = sink + strings(i);
	}
}
