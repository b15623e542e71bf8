package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -type sample_header -type counters -type outcome -type rule -type code_kind -type process -type mapping sampler sampler.bpf.c -- -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -type walk_cost -output-suffix _test walkbench testdata/walkbench.bpf.c -- -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -type stop -output-suffix _test stopper testdata/stopper.bpf.c -- -Wall -Werror -mcpu=v3
