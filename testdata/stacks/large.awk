# large.awk prints C++ that keeps a compiler busy for minutes: functions that inline each other, loops to vectorise,
# switches, templates to instantiate. awk -v functions=N -f large.awk
BEGIN {
	print "template <int N> struct fold { static long of(long x) { return fold<N - 1>::of(x * N ^ x >> 3) + N; } };"
	print "template <> struct fold<0> { static long of(long x) { return x; } };"
	for (i = 0; i < functions; i++) {
		printf "long f%d(long x, const int *a, int *b, int n)\n{\n", i
		printf "\tlong s = fold<%d>::of(x);\n", 20 + i % 60
		printf "\tfor (int i = 0; i < n; i++)\n\t\tb[i] = a[i] * %d + (a[i] > %d ? b[i] : -b[i]);\n", i % 97 + 2, i % 31
		printf "\tswitch (s %% 9) {\n"
		for (c = 0; c < 9; c++)
			printf "\tcase %d: for (int i = %d; i < n; i += %d) s += a[i] ^ b[i] << %d; break;\n", c, c, c + 1, (i + c) % 13
		printf "\t}\n"
		if (i > 1)
			printf "\treturn s + f%d(s, b, b, n / 2) * f%d(x, a, b, n / 3);\n}\n", i - 1, i - 2
		else
			printf "\treturn s;\n}\n"
	}
}
