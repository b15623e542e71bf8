// The second unit, which has some of the first one's functions too.
#include "inline.h"

using namespace deep;

int other(std::map<std::string, int> &m, int n) {
	for (int i = 0; i < n * 10; i++)
		m[std::to_string(i)] += Chain<6>::run(i);
	int s = 0;
	for (auto &[k, v] : m)
		s += v + (int)k.size();
	return s;
}
