package main

import (
	"testing"

	"pilotlight/cmd/pilotlight/agent"
)

func TestAgentReportHasTheGovernorAndTables(t *testing.T) {
	r := agentReport(agent.Report{Level: 2, TableBytes: 3, Window: agent.Account{Unfinished: 5, Finished: 4}})
	if r.Level != 2 || r.TableBytes != 3 || r.Window.Unfinished != 5 || r.Window.Finished != 4 {
		t.Errorf("%+v", r)
	}
}
