// Flyway's engine behind one line per request: the verb and key=value settings, separated by tabs. The answer is a
// line "row" for each migration of `info`, then a line "ok" or "error" with a text, in which \n stands for a line's end.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.FlywayException;
import org.flywaydb.core.api.MigrationInfo;

public class Engine {
    public static void main(String[] arguments) throws Exception {
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String request; (request = requests.readLine()) != null;) {
            String answer = "ok\t";
            try {
                run(request.split("\t"));
            } catch (FlywayException failure) {
                answer = "error\t" + String.valueOf(failure.getMessage()).replaceAll("\\R", "\\\\n");
            }
            System.out.println(answer);
        }
    }

    private static void run(String[] request) {
        Map<String, String> settings = new HashMap<>();
        for (int i = 1; i < request.length; i++) {
            String[] setting = request[i].split("=", 2);
            settings.put("flyway." + setting[0], setting[1]);
        }
        Flyway flyway = Flyway.configure().configuration(settings).load();
        switch (request[0]) {
            case "migrate" -> flyway.migrate();
            case "validate" -> flyway.validate();
            case "baseline" -> flyway.baseline();
            case "repair" -> flyway.repair();
            case "info" -> {
                for (MigrationInfo row : flyway.info().all()) {
                    String version = row.getVersion() == null ? "" : row.getVersion().getVersion();
                    String state = row.getState().getDisplayName();
                    String kind = row.getType().name();
                    System.out.println(String.join("\t", "row", version, row.getDescription(), kind, state));
                }
            }
            default -> throw new FlywayException("no such verb: " + request[0]);
        }
    }
}
