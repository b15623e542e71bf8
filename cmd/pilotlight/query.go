package main

// queryCmd asks for what is stored. The source of each of its commands is the URL of a server, a data directory,
// which is read and not changed, or a pprof file. It ends with 0, or 1 when it could not be answered, 2 when the
// command line is wrong.
type queryCmd struct {
	Series querySeriesCmd `cmd:"" help:"Print values over time."`
	Labels queryLabelsCmd `cmd:"" help:"Print the names of labels, or the values of one."`
	Top    queryTopCmd    `cmd:"" help:"Print the functions that used most."`
	Pprof  queryPprofCmd  `cmd:"" help:"Write what is selected as one pprof file."`
}

// sourceArg is the first argument of all of them.
type sourceArg struct {
	Source string `arg:"" optional:"" default:"http://127.0.0.1:7100" help:"URL of a server, data directory or pprof file."`
	tokenFlags
}
