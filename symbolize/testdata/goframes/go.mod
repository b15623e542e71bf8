module goframes

go 1.18
