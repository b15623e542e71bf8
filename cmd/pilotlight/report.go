package main

import (
	"pilotlight/bpf"
	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore/httpapi"
)

// agentReport is r as the API has it.
func agentReport(r agent.Report) httpapi.AgentReport {
	return httpapi.AgentReport{
		Version:     r.Version,
		Hostname:    r.Hostname,
		StartMS:     r.Started.UnixMilli(),
		WindowMS:    r.WindowStart.UnixMilli(),
		CPUs:        r.CPUs,
		FrequencyHz: r.Frequency,
		RSSBytes:    int64(r.RSS),
		BPFBytes:    int64(r.BPFMemory),
		Level:       r.Level,
		Sheds:       r.Sheds,
		CPULimit:    r.CPULimit,
		MemoryLimit: int64(r.MemoryLimit),
		Off:         r.Off,
		TableBytes:  int64(r.TableBytes),
		Window:      agentAccount(r.Window),
		Total:       agentAccount(r.Total),
	}
}

func agentAccount(a agent.Account) httpapi.Account {
	outcomes := make(map[string]int64, len(a.Outcomes))
	for o, n := range a.Outcomes {
		outcomes[bpf.Outcome(o).String()] = int64(n)
	}
	return httpapi.Account{
		SamplesTaken:  int64(a.Taken),
		SamplesMissed: int64(a.Missed),
		Outcomes:      outcomes,
		Frames:        int64(a.Frames),
		FramesUnnamed: int64(a.Unnamed),
		Unfinished:    int64(a.Unfinished),
		Finished:      int64(a.Finished),
		CPUSeconds:    a.CPU.Seconds(),
		BPFSeconds:    a.BPF.Seconds(),
	}
}
