import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Submits one Nexmark query to a running Flink cluster: Submit REST_PORT OBJECT_REUSE FILE, whose statements end with a line `;`. */
public class Submit {
    public static void main(String[] args) throws Exception {
        Configuration configuration = new Configuration();
        configuration.setString("execution.target", "remote");
        configuration.setString("rest.address", "127.0.0.1");
        configuration.setString("rest.port", args[0]);
        configuration.setString("execution.attached", "true");
        configuration.setString("parallelism.default", "2");
        configuration.setString("pipeline.object-reuse", args[1]);
        configuration.setString("execution.checkpointing.interval", "1s");
        configuration.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        // The Nexmark project's settings.
        configuration.setString("table.exec.mini-batch.enabled", "true");
        configuration.setString("table.exec.mini-batch.allow-latency", "2s");
        configuration.setString("table.exec.mini-batch.size", "50000");
        configuration.setString("table.optimizer.distinct-agg.split.enabled", "true");
        configuration.setString("table.local-time-zone", "UTC");
        TableEnvironment tables =
            TableEnvironment.create(EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());
        for (String statement : Files.readString(Path.of(args[2])).split("\n;\n")) {
            if (statement.isBlank()) {
                continue;
            }
            var result = tables.executeSql(statement);
            if (result.getJobClient().isPresent()) {
                System.out.println("job " + result.getJobClient().get().getJobID());
                System.out.flush();
                result.await();
                System.out.println("finished");
            }
        }
    }
}
