#pragma once
#include <algorithm>
#include <map>
#include <string>
#include <vector>

// Each level is inlined into the next, so that one address has up to 13 frames.
namespace deep {
template <int N> struct Chain {
	static inline __attribute__((always_inline)) int run(int x) {
		if (x % (N + 2) == 0)
			x += N;
		return Chain<N - 1>::run(x * 3 + N) ^ N;
	}
};
template <> struct Chain<0> {
	static inline __attribute__((always_inline)) int run(int x) { return x + 1; }
};

struct Shape {
	virtual ~Shape() {}
	virtual double area() const = 0;
	std::string name;
};
struct Square : Shape {
	double side;
	explicit Square(double s) : side(s) { name = "square"; }
	double area() const override { return side * side; }
};
}

int other(std::map<std::string, int> &m, int n);
