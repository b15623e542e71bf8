import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** The Java part of the mix load: collections, streams and strings, compiled by HotSpot while it runs. */
public final class Worker {
    private record Account(int id, String owner, long balance) {}

    private static List<Account> accounts(long seed) {
        List<Account> accounts = new ArrayList<>();
        for (int i = 0; i < 300; i++) {
            seed = seed * 6364136223846793005L + 1442695040888963407L;
            accounts.add(new Account(i, "owner-" + Math.floorMod(seed >> 33, 50), Math.floorMod(seed, 100_000)));
        }
        return accounts;
    }

    private static Map<String, Long> totals(List<Account> accounts) {
        return accounts.stream()
                .sorted(Comparator.comparingLong(Account::balance).thenComparing(Account::owner))
                .collect(Collectors.groupingBy(Account::owner, HashMap::new, Collectors.summingLong(Account::balance)));
    }

    private static String render(Map<String, Long> totals) {
        StringBuilder out = new StringBuilder();
        totals.forEach((owner, total) -> out.append(owner).append('=').append(total).append(';'));
        return out.toString();
    }

    public static void main(String[] args) {
        if (args.length != 1) {
            System.err.println("usage: Worker SECONDS");
            System.exit(2);
        }
        long start = System.nanoTime();
        long duration = (long) (Double.parseDouble(args[0]) * 1e9);
        long iterations = 0;
        long length = 0;
        for (; System.nanoTime() - start < duration; iterations++) {
            length += render(totals(accounts(iterations))).length();
        }
        if (length == 0) {
            throw new IllegalStateException("nothing was rendered");
        }
        System.out.printf("{\"program\":\"mix-java\",\"pid\":%d,\"seconds\":%.3f,\"iterations\":%d}%n",
                ProcessHandle.current().pid(), (System.nanoTime() - start) / 1e9, iterations);
    }
}
