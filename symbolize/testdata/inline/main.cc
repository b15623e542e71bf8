// A program for the DWARF reader: deep inlining, a cold part, a method of a local class, a lambda, virtual methods.
#include "inline.h"

using namespace deep;

static int cold_path(int x) __attribute__((cold, noinline));
static int cold_path(int x) { throw "negative: " + std::to_string(x); }

int work(std::vector<int> &v) {
	struct Local {
		static int twice(int x) {
			std::vector<int> t(x & 7, x);
			std::sort(t.begin(), t.end());
			return t.empty() ? x : t[0] * 2;
		}
	};
	int s = 0;
	for (int x : v) {
		if (x < -1000)
			s += cold_path(x);
		s += Chain<12>::run(x) + Local::twice(x);
	}
	auto f = [&](int a) {
		v.push_back(a);
		std::sort(v.begin(), v.end(), [](int l, int r) { return l > r; });
		return v.front();
	};
	return s + f(s);
}

int main(int argc, char **) {
	std::vector<int> v;
	for (int i = 0; i < 100 * argc; i++)
		v.push_back(i * 7919 % 101);
	std::map<std::string, int> m;
	Shape *q = new Square(argc);
	double a = q->area();
	delete q;
	return (work(v) + other(m, argc) + int(a)) & 0x7f;
}
