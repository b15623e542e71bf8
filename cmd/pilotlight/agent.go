package main

import "net"

// agentCmd profiles this machine and sends the profiles to a server: an agent half and a send half.
type agentCmd struct {
	Listen string `help:"Address of the agent's own metrics and health checks." default:"127.0.0.1:7101" placeholder:"HOST:PORT"`
	Data   string `help:"Directory of what the server could not take yet. Default: /var/lib/pilotlight as root, else below XDG_STATE_HOME." placeholder:"DIR"`
	agentFlags
	sendFlags
}

func (c *agentCmd) Run(g *globals) error {
	data, err := dataDir(c.Data)
	if err != nil {
		return err
	}
	return c.agentFlags.run(g, peerOptions{
		name: "send half", verb: "send-half", data: data, listen: c.Listen, counts: true,
		flags: c.sendFlags.args(), env: environment(httpEnv),
	}, func(at net.Addr) {
		g.log.Info("sending", "server", c.Server, "metrics", "http://"+at.String()+"/metrics")
	})
}
