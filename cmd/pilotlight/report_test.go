package main

import (
	"slices"
	"testing"

	"pilotlight/cmd/pilotlight/agent"
)

func TestAgentReportHasTheGovernorAndTables(t *testing.T) {
	r := agentReport(agent.Report{Level: 2, Sheds: []string{"finishing"}, CPULimit: 2.4, MemoryLimit: 9, TableBytes: 3, Window: agent.Account{Unfinished: 5, Finished: 4}})
	if r.Level != 2 || !slices.Equal(r.Sheds, []string{"finishing"}) || r.CPULimit != 2.4 || r.MemoryLimit != 9 || r.TableBytes != 3 || r.Window.Unfinished != 5 || r.Window.Finished != 4 {
		t.Errorf("%+v", r)
	}
}
