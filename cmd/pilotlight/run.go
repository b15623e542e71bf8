package main

import (
	"net"
	"slices"
)

// runCmd profiles this machine and keeps the profiles: an agent half and a store half.
type runCmd struct {
	Listen string `help:"Address of the web page and the API." default:"127.0.0.1:7100" placeholder:"HOST:PORT"`
	Data   string `help:"Directory of the profiles. Default: /var/lib/pilotlight as root, else below XDG_STATE_HOME." placeholder:"DIR"`
	agentFlags
	storeFlags
	serveFlags
}

func (c *runCmd) Run(g *globals) error {
	data, err := dataDir(c.Data)
	if err != nil {
		return err
	}
	return c.agentFlags.run(g, peerOptions{
		name: "store half", verb: "store-half", data: data, listen: c.Listen,
		flags: slices.Concat(c.storeFlags.args(), c.serveFlags.args()), env: environment([]string{"GOMEMLIMIT"}),
	}, func(at net.Addr) { g.log.Info("serving", "url", c.scheme()+"://"+at.String()) })
}
